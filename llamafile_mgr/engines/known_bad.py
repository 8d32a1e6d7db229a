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

__all__ = [
    "FIRST",
    "LAST",
    "LLAMAFILE_ROWS",
    "PROCESSOR",
    "RERANKS_LATER",
    "SEVERAL_MODELS",
    "Candidate",
    "KnownBad",
    "Version",
    "embeds",
    "on_windows",
]

Version = tuple[int, int, int]
FIRST, LAST = (0, 0, 0), (999, 0, 0)
#: The largest program that Windows starts, in bytes.
_WINDOWS_LIMIT = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class Candidate:
    """One engine with the model and the machine that it would meet.

    ``ends_sequences``: the file asks for an automatic end of sequence. ``models``: GGUFs in it.
    ``program_bytes``: size of the file that is executed, 0 for the embedded engine. ``arguments``: what
    the executed file brings along. ``uses_gpu``: a GPU of this machine would compute. ``borrowed``: the
    weights are given to the engine with ``-m``.
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


@dataclass(frozen=True, slots=True)
class KnownBad:
    """One row: releases from ``first`` to ``last`` of the family that has it, when ``applies`` holds.

    ``slow`` marks what works but is worse than another installed engine, ``no_gpu`` what computes on the
    processor alone.
    """

    name: str
    first: Version
    last: Version
    why: str
    applies: Callable[[Candidate], bool] = lambda _: True
    slow: bool = False
    no_gpu: bool = False

    def fits(self, candidate: Candidate) -> bool:
        """Tell whether it is met; an engine of unknown release meets the rows that name no release."""
        if not self.applies(candidate):
            return False
        if candidate.version is None:
            return (self.first, self.last) == (FIRST, LAST)
        return self.first <= candidate.version <= self.last

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
    FIRST,
    LAST,
    "the file holds more than one GGUF, and another engine takes one alone (issue 511)",
    lambda c: c.borrowed and c.models > 1,
)
PROCESSOR = KnownBad(
    "processor",
    FIRST,
    LAST,
    "llamafiles run on x86-64 and 64-bit ARM alone",
    lambda c: c.machine.architecture not in (None, "x86_64", "arm64"),
)
RERANKS_LATER = KnownBad(
    "rerank", FIRST, LAST, "llamafiles rerank from 0.10 on", lambda c: c.role is Role.RERANK
)
#: Of every llamafile, behind ``PROCESSOR``.
LLAMAFILE_ROWS = (
    KnownBad(
        "avx",
        (0, 7, 0),
        LAST,
        "the processor has no AVX, without which llamafile 0.7 and later end at once",
        lambda c: _lacks(c, "avx"),
    ),
    KnownBad(
        "ssse3",
        FIRST,
        (0, 6, 2),
        "the processor has no SSSE3, which it needs",
        lambda c: _lacks(c, "ssse3"),
    ),
    SEVERAL_MODELS,
    KnownBad(
        "windows on arm",
        FIRST,
        LAST,
        "on Windows llamafiles run on x86-64 alone",
        lambda c: on_windows(c) and c.machine.architecture == "arm64",
    ),
    KnownBad(
        "windows 4 GB",
        FIRST,
        LAST,
        "Windows cannot start a program above 4 GB",
        lambda c: on_windows(c) and c.program_bytes > _WINDOWS_LIMIT,
    ),
)
