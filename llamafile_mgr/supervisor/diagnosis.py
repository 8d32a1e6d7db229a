"""Why an engine died, in words: from its exit status and its last lines. Pure.

Sources of the phrases: llamafile 0.8-0.10 and llama.cpp messages as the reference of engine generations
quotes them, those of bad flags as llama.cpp's servers of May 2024 and of 2026 print them; the shell's exit
codes 126 and 127 are POSIX's.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

#: Codes with which a llamafile ends whose program was never run: an empty loader "succeeds".
NOT_RUN = frozenset({0, 126, 127})


class Kind(StrEnum):
    """Causes that something can be done about, and the rest."""

    UNKNOWN_FLAG = "unknown flag"
    OUT_OF_MEMORY = "out of memory"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """``cause`` and ``hint`` as in ``errors.Error``; ``permanent``: another start would end the same way.

    ``subject``: the flag that is unknown. ``external``: somebody ended it; nothing that it computed did.
    ``curable``: what is in the way may be mended by somebody who tells nobody, so that it is tried again
    for ever. ``passing``: it may be gone soon, so that an engine that was never ready gets as many tries as
    any other.
    """

    cause: str
    hint: str | None = None
    permanent: bool = False
    kind: Kind = Kind.OTHER
    subject: str | None = None
    external: bool = False
    curable: bool = False
    passing: bool = False


#: What these patterns over the last lines mean; causes take the match's groups.
_LINES: dict[str, Diagnosis] = {
    r"(?:invalid argument|unknown argument): ?(\S+)": Diagnosis(
        "this engine does not know the flag {0}",
        "its release differs from what was detected; `llamafile-mgr show` tells what was read from the file",
        permanent=True,
        kind=Kind.UNKNOWN_FLAG,
    ),
    r"(?:invalid value for argument|invalid parameter for argument:) ?([^\s:]+)": Diagnosis(
        "this engine does not take that value for {0}", permanent=True
    ),
    r'error while handling argument "([^"]+)": ?(.*)': Diagnosis(
        "this engine does not take that value for {0} ({1})", permanent=True
    ),
    r"terminate called [^\n]*\n\s*what\(\): +sto[a-z]+": Diagnosis(
        "this engine read something else than a number where one belongs, in a flag perhaps"
    ),
    r"cpu feature (\w+) was required": Diagnosis(
        "this engine was built for processors with {0}, which this one lacks", permanent=True
    ),
    r"(?:out of memory|Malloc failed|failed to allocate (?:\w+ ){0,2}buffer)": Diagnosis(
        "there was not enough GPU or main memory for the model",
        "use a smaller model or quantisation, or a shorter context",
        kind=Kind.OUT_OF_MEMORY,
    ),
    r"(?:couldn't bind|address already in use|failed to listen)": Diagnosis(
        "its port was taken by another program"
    ),
    r"pip install 'llamafile-mgr\[embedded\]'": Diagnosis(
        "the embedded engine is not installed", "pip install 'llamafile-mgr[embedded]'", permanent=True
    ),
    r"failed to (?:load|apply) lora adapter": Diagnosis(
        "the engine could not use a LoRA adapter: it was made for another model",
        "compare it with the model: `llamafile-mgr show` of both",
        permanent=True,
    ),
    r"mismatch between text model \(n_embd = (\d+)\) and mmproj \(n_embd = (\d+)\)": Diagnosis(
        "the projector was made for another model: it gives {1} numbers a token where the model takes {0}",
        "use the projector that was published with the model",
        permanent=True,
    ),
    r"(?:failed to load model|error loading model|invalid magic|tensor .* data is not within)": Diagnosis(
        "the engine could not load the model: the file is damaged or of a kind that this engine cannot read",
        "`llamafile-mgr verify` finds damage; `llamafile-mgr show` tells what the file is",
        permanent=True,
    ),
    r"GGML_ASSERT\((.*)\)": Diagnosis("an assertion inside the engine failed: {0}"),
    r"multiple \.gguf files found": Diagnosis(
        "the file holds more than one GGUF, and the engine cannot choose", permanent=True
    ),
}


def diagnose(
    exit_code: int | None,
    lines: Sequence[str],
    uptime_seconds: float,
    *,
    oom_killed: bool = False,
    obstacle: Diagnosis | None = None,
) -> Diagnosis:
    """Return why an engine ended.

    ``exit_code``: as asyncio tells it, negative for a signal, None when it was still running. ``lines``:
    its last log lines, oldest first. ``oom_killed``: the kernel's out-of-memory killer struck meanwhile.
    ``obstacle``: what was found in the way of the program itself, which says nothing of why it failed.
    """
    if oom_killed and exit_code == -9:
        return Diagnosis(
            "the kernel killed it because memory ran out",
            "use a smaller model or quantisation, or give it more memory",
            kind=Kind.OUT_OF_MEMORY,
        )
    text = "\n".join(lines)
    for pattern, meaning in _LINES.items():
        if found := re.search(pattern, text, re.IGNORECASE):
            subject = found.group(1) if meaning.kind is Kind.UNKNOWN_FLAG else None
            return replace(meaning, cause=meaning.cause.format(*found.groups()), subject=subject)
    if exit_code is None:
        return Diagnosis("it ran but gave no sign of life")
    if exit_code < 0:
        return _diagnose_signal(-exit_code, uptime_seconds)
    if obstacle is not None and exit_code in NOT_RUN:
        return obstacle
    if exit_code in (126, 127):
        return Diagnosis(
            f"the shell could not run it (exit code {exit_code})",
            "a program is missing, a mount is noexec or a handler captures MZ files: `llamafile-mgr doctor`",
        )
    if exit_code == 0 and not text.strip():
        return Diagnosis(
            "it ended with exit code 0 and printed nothing",
            "a loader of llamafiles that is empty does that: `command -v ape` tells of one on PATH",
            external=True,
        )
    # Engines that catch a signal to finish what they do end with the code of success: somebody asked for it.
    return Diagnosis(f"it ended with exit code {exit_code}", external=exit_code == 0)


#: Signals that people and service managers send, and no program raises by a mistake of its own.
_POLITE = frozenset({"SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"})


def _diagnose_signal(number: int, uptime_seconds: float) -> Diagnosis:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if name == "SIGILL":
        return Diagnosis("the processor lacks an instruction that this engine uses (SIGILL)", permanent=True)
    if name == "SIGKILL" and uptime_seconds < 1.0:
        return Diagnosis(
            "it was killed in its first second (SIGKILL)",
            "antivirus software does that; so does a memory limit far too low",
            external=True,
        )
    if name == "SIGKILL":
        return Diagnosis(
            "it was killed from outside (SIGKILL)",
            "the kernel does that when memory runs out: see `dmesg`",
            external=True,
        )
    return Diagnosis(f"it crashed or was ended by {name}", external=name in _POLITE)
