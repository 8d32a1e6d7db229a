"""Combinations of engine, model and machine that are known to fail, with reasons: those of all llamafiles.

The rows of one family alone stand on it. Sources: llamafile's sources and releases 0.5 to 0.10.6 and the
issues that the rows name (of mozilla-ai/llamafile unless said otherwise). None of these engines was run here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamafile_mgr.catalog import Pooling, Role

if TYPE_CHECKING:
    from llamafile_mgr.machine import Machine

Version = tuple[int, int, int]
#: The largest program that Windows starts, in bytes.
_WINDOWS_LIMIT = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class Candidate:
    """One engine with the model and the machine that it would meet.

    ``ends_sequences``: the file asks for an automatic end of sequence. ``models``: GGUFs in it.
    ``program_bytes``: size of the file that is executed, 0 for the embedded engine. ``arguments``: what
    the executed file brings along. ``uses_gpu``: a GPU of this machine would compute. ``borrowed``: the
    weights are given to the engine with ``-m``. ``features``: fields of ``Features`` that are asked for.
    ``word_pieces``: its tokens are the WordPieces of BERT.
    """

    version: Version | None
    role: Role
    pooling: Pooling | None
    machine: Machine
    program_bytes: int
    ends_sequences: bool = False
    models: int = 1
    arguments: tuple[str, ...] = ()
    uses_gpu: bool = False
    borrowed: bool = False
    features: frozenset[str] = frozenset()
    word_pieces: bool = False


@dataclass(frozen=True, slots=True)
class KnownBad:
    """One row of a family: its releases from ``first`` to ``last``, all where None, when ``applies`` holds.

    ``slow`` marks what works but is worse than another installed engine, ``no_gpu`` what computes on the
    processor alone.
    """

    name: str
    why: str
    applies: Callable[[Candidate], bool]
    first: Version | None = None
    last: Version | None = None
    slow: bool = False
    no_gpu: bool = False

    def fits(self, candidate: Candidate) -> bool:
        """Tell whether it is met; an engine of unknown release meets the rows that name no release."""
        version = candidate.version
        if version is None:
            within = self.first is None and self.last is None
        else:
            within = (self.first or version) <= version <= (self.last or version)
        return within and self.applies(candidate)

    def explain(self, version: Version | None) -> str:
        """Return the reason with the engine's release in it."""
        return self.why.format(version=".".join(map(str, version)) if version else "").replace("  ", " ")


def embeds(candidate: Candidate) -> bool:
    """Tell whether the engine would embed."""
    return candidate.role is Role.EMBED


def on_windows(candidate: Candidate) -> bool:
    """Tell whether it would run on Windows."""
    return candidate.machine.system.value == "windows"


def _lacks(candidate: Candidate, feature: str) -> bool:
    return candidate.machine.architecture == "x86_64" and candidate.machine.cpu.has(feature) is False


SEVERAL_MODELS = KnownBad(
    "several models",
    "the file holds more than one GGUF, and another engine takes one alone (issue 511)",
    lambda c: c.borrowed and c.models > 1,
)
_PROCESSOR = KnownBad(
    "processor",
    "llamafiles run on x86-64 and 64-bit ARM alone",
    lambda c: c.machine.architecture not in (None, "x86_64", "arm64"),
)
_RERANK = KnownBad("rerank", "llamafiles rerank from 0.10 on", lambda c: c.role is Role.RERANK)
_ROWS = (
    KnownBad(
        "avx",
        "the processor has no AVX, without which llamafile 0.7 and later end at once",
        lambda c: _lacks(c, "avx"),
        first=(0, 7, 0),
    ),
    KnownBad(
        "ssse3",
        "the processor has no SSSE3, which it needs",
        lambda c: _lacks(c, "ssse3"),
        last=(0, 6, 2),
    ),
    SEVERAL_MODELS,
    KnownBad(
        "windows on arm",
        "on Windows llamafiles run on x86-64 alone",
        lambda c: on_windows(c) and c.machine.architecture == "arm64",
    ),
    KnownBad(
        "windows 4 GB",
        "Windows cannot start a program above 4 GB",
        lambda c: on_windows(c) and c.program_bytes > _WINDOWS_LIMIT,
    ),
)
LLAMAFILE_ROWS = (_PROCESSOR, *_ROWS)
OLD_LLAMAFILE_ROWS = (_PROCESSOR, _RERANK, *_ROWS)
