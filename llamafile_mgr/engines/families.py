"""The table of engine families. A new one is a module of its own and two lines here."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.known_bad import Version
from llamafile_mgr.engines.stock import LlamaCpp
from llamafile_mgr.engines.v1 import V1
from llamafile_mgr.engines.v2 import V2
from llamafile_mgr.engines.v10 import V10
from llamafile_mgr.engines.wheel import Embedded


class Family(StrEnum):
    """The name of a family, as files and JSON hold it. Of engines that are installed beside this package an
    earlier one is preferred: a native build is faster than the wheel, and may have the GPU."""

    V1 = "v1"
    V2 = "v2"
    V10 = "v10"
    LLAMA_CPP = "llama.cpp"
    EMBEDDED = "embedded"


_FAMILIES: dict[Family, EngineFamily] = {
    Family.V1: V1(),
    Family.V2: V2(),
    Family.V10: V10(),
    Family.LLAMA_CPP: LlamaCpp(),
    Family.EMBEDDED: Embedded(),
}


def family_rules(family: Family) -> EngineFamily:
    """Return the rules of ``family``."""
    return _FAMILIES[family]


def made_runtimes() -> dict[str, bytes]:
    """Return the runtimes that this package makes itself, by the names of their families."""
    return {f.value: r.made_runtime for f, r in _FAMILIES.items() if r.made_runtime is not None}


def parse_version(text: str) -> Version | None:
    """Return ``(major, minor, patch)`` of a version such as ``0.8.4``, or None when it is none."""
    parts = text.removeprefix("v").split(".")
    if not 2 <= len(parts) <= 3 or not all(p.isascii() and p.isdigit() for p in parts):
        return None
    numbers = [int(p) for p in parts] + [0]
    return numbers[0], numbers[1], numbers[2]


def family_of_version(version: str) -> Family | None:
    """Return the family that ``--server`` of this llamafile release starts, None when unreadable.

    Families that a release carries beside it have to be asked for (``EngineFamily.also_in``).
    """
    numbers = parse_version(version)
    if numbers is None:
        return None
    return next((family for family, rules in _FAMILIES.items() if rules.serves_in(numbers)), None)


def family_of_head(head: bytes) -> Family | None:
    """Return the family whose mark stands in these bytes of a file's head."""
    return next((f for f, r in _FAMILIES.items() if r.head_mark and r.head_mark in head), None)


def family_of_members(names: Iterable[str]) -> Family | None:
    """Return the first family that is told by the names of a file's ZIP members."""
    listed = list(names)
    marks = ((f, r.member_mark) for f, r in _FAMILIES.items() if r.member_mark is not None)
    return next((family for family, mark in marks if any(map(mark.fullmatch, listed))), None)
