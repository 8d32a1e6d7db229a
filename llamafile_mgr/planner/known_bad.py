"""Combinations of engine, model and machine that are known to fail, as one table with reasons. Pure.

Sources: llamafile's sources and releases 0.5 to 0.10.6 and the issues that the rows name (of
mozilla-ai/llamafile unless said otherwise). None of these engines was run here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.llamafile import Family, FileFacts
from llamafile_mgr.machine import Machine, System

__all__ = ["KNOWN_BAD", "WINDOWS_LIMIT", "Candidate", "KnownBad", "explain", "find_known_bad"]

Version = tuple[int, int, int]
_FIRST, _LAST = (0, 0, 0), (999, 0, 0)
#: The largest program that Windows starts, in bytes.
WINDOWS_LIMIT = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class Candidate:
    """One engine with the model and the machine that it would meet.

    ``program_bytes``: size of the file that is executed, 0 for the embedded engine. ``arguments``: what
    the executed file brings along. ``uses_gpu``: a GPU of this machine would compute. ``borrowed``: the
    weights are given to the engine with ``-m``.
    """

    family: Family
    version: Version | None
    role: Role
    pooling: Pooling | None
    facts: FileFacts
    machine: Machine
    program_bytes: int
    arguments: tuple[str, ...] = ()
    uses_gpu: bool = False
    borrowed: bool = False


@dataclass(frozen=True, slots=True)
class KnownBad:
    """One row: releases from ``first`` to ``last`` of ``families``, when ``applies`` holds.

    ``slow`` marks what works but is worse than another installed engine, ``no_gpu`` what computes on the
    processor alone.
    """

    name: str
    families: tuple[Family, ...]
    first: Version
    last: Version
    why: str
    applies: Callable[[Candidate], bool] = lambda _: True
    slow: bool = False
    no_gpu: bool = False


def _embeds(candidate: Candidate) -> bool:
    return candidate.role is Role.EMBED


def _reranks(candidate: Candidate) -> bool:
    return candidate.role is Role.RERANK


def _on_x86(candidate: Candidate) -> bool:
    return candidate.machine.architecture == "x86_64"


def _lacks_avx(candidate: Candidate) -> bool:
    return _on_x86(candidate) and candidate.machine.cpu.has("avx") is False


def _lacks_ssse3(candidate: Candidate) -> bool:
    return _on_x86(candidate) and candidate.machine.cpu.has("ssse3") is False


def _foreign_processor(candidate: Candidate) -> bool:
    return candidate.machine.architecture not in (None, "x86_64", "arm64")


def _on_windows(candidate: Candidate) -> bool:
    return candidate.machine.system is System.WINDOWS


def _asks_for_eos(candidate: Candidate) -> bool:
    model = candidate.facts.model
    return model is not None and model.gguf.add_eos is True


#: Flags of older releases that a later parser refuses; the file's own ``.args`` may hold them.
_GONE_IN_10 = frozenset(
    {"--nobrowser", "--v2", "--recompile", "--nocompile", "--fast", "--precise", "--tinyblas", "--trap", "-l"}
)
_GONE_AFTER_10_6 = frozenset({"--mmap", "--no-mmap", "--mlock", "-dio"})

_LLAMAFILES = (Family.V1, Family.V2, Family.V10)

KNOWN_BAD: tuple[KnownBad, ...] = (
    KnownBad(
        "processor",
        _LLAMAFILES,
        _FIRST,
        _LAST,
        "llamafiles run on x86-64 and 64-bit ARM alone",
        _foreign_processor,
    ),
    KnownBad(
        "rerank",
        (Family.V1, Family.V2),
        _FIRST,
        _LAST,
        "llamafiles rerank from 0.10 on",
        _reranks,
    ),
    KnownBad(
        "avx",
        _LLAMAFILES,
        (0, 7, 0),
        _LAST,
        "the processor has no AVX, without which llamafile 0.7 and later end at once",
        _lacks_avx,
    ),
    KnownBad(
        "ssse3", _LLAMAFILES, _FIRST, (0, 6, 2), "the processor has no SSSE3, which it needs", _lacks_ssse3
    ),
    KnownBad(
        "several models",
        (*_LLAMAFILES, Family.EMBEDDED),
        _FIRST,
        _LAST,
        "the file holds more than one GGUF, and another engine takes one alone (issue 511)",
        lambda c: c.borrowed and len(c.facts.weights) > 1,
    ),
    KnownBad(
        "windows on arm",
        _LLAMAFILES,
        _FIRST,
        _LAST,
        "on Windows llamafiles run on x86-64 alone",
        lambda c: _on_windows(c) and c.machine.architecture == "arm64",
    ),
    KnownBad(
        "windows 4 GB",
        _LLAMAFILES,
        _FIRST,
        _LAST,
        "Windows cannot start a program above 4 GB",
        lambda c: _on_windows(c) and c.program_bytes > WINDOWS_LIMIT,
    ),
    KnownBad(
        "embeddings refused",
        (Family.V1,),
        (0, 8, 13),
        (0, 9, 3),
        "its engine {version} refuses embeddings",
        _embeds,
    ),
    KnownBad(
        "embeddings wrong",
        (Family.V1,),
        _FIRST,
        (0, 8, 1),
        "its engine {version} gives wrong vectors",
        _embeds,
    ),
    KnownBad(
        "automatic end of sequence",
        (Family.V1,),
        (0, 8, 1),
        (0, 9, 3),
        "its engine {version} aborts on models that ask for an automatic end of sequence",
        _asks_for_eos,
    ),
    KnownBad(
        "fixed pooling",
        (Family.V2,),
        _FIRST,
        _LAST,
        "its engine pools the last token of every model",
        lambda c: _embeds(c) and c.pooling is not Pooling.LAST,
    ),
    KnownBad(
        "flags that went",
        (Family.V10,),
        _FIRST,
        _LAST,
        "its embedded arguments hold flags that its engine {version} refuses",
        lambda c: bool(_GONE_IN_10.intersection(c.arguments)),
    ),
    KnownBad(
        "memory flags that went",
        (Family.V10,),
        (0, 10, 7),
        _LAST,
        "its embedded arguments hold flags that its engine {version} refuses",
        lambda c: bool(_GONE_AFTER_10_6.intersection(c.arguments)),
    ),
    KnownBad(
        "slow decoding on processors",
        (Family.V10,),
        (0, 10, 6),
        (0, 10, 6),
        "0.10.6 is many times slower on the processor (llama.cpp issues 27126 and 27084)",
        lambda c: not c.uses_gpu,
        slow=True,
    ),
    KnownBad(
        "no GPU on Windows",
        (Family.V10,),
        (0, 10, 0),
        (0, 10, 0),
        "0.10.0 has no GPU support on Windows",
        lambda c: _on_windows(c) and bool(c.machine.gpus),
        slow=True,
        no_gpu=True,
    ),
)


def find_known_bad(candidate: Candidate) -> KnownBad | None:
    """Return the first row that fits, those that fail before those that are slow; None for a good one.

    An engine of unknown release meets the rows that name no release.
    """
    rows = [row for row in KNOWN_BAD if _fits(row, candidate)]
    return min(rows, key=lambda row: row.slow, default=None)


def explain(row: KnownBad, version: Version | None) -> str:
    """Return the row's reason with the engine's release in it."""
    return row.why.format(version=".".join(map(str, version)) if version else "").replace("  ", " ")


def _fits(row: KnownBad, candidate: Candidate) -> bool:
    if candidate.family not in row.families or not row.applies(candidate):
        return False
    if candidate.version is None:
        return (row.first, row.last) == (_FIRST, _LAST)
    return row.first <= candidate.version <= row.last
