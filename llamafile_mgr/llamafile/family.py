"""Engine families: the generations of flags and HTTP shapes (see ``engines`` for each one's own)."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Family", "family_of_version", "parse_version"]


class Family(StrEnum):
    """One generation of llama.cpp-based servers.

    ``V1``: ``--server`` of llamafile up to 0.9.3. ``V2``: llamafiler, 0.8.8 to 0.9.3.
    ``V10``: llamafile from 0.10.0, upstream's server. ``EMBEDDED``: the ``xllamacpp`` wheel,
    started by ``python -m llamafile_mgr.engines.embedded``; it speaks V10's HTTP.
    """

    V1 = "v1"
    V2 = "v2"
    V10 = "v10"
    EMBEDDED = "embedded"


def parse_version(text: str) -> tuple[int, int, int] | None:
    """Return ``(major, minor, patch)`` of a version such as ``0.8.4``, or None when it is none."""
    parts = text.removeprefix("v").split(".")
    if not 2 <= len(parts) <= 3 or not all(p.isascii() and p.isdigit() for p in parts):
        return None
    numbers = [int(p) for p in parts] + [0]
    return numbers[0], numbers[1], numbers[2]


def family_of_version(version: str) -> Family | None:
    """Return the family that ``--server`` of this llamafile release starts, None when unreadable.

    Releases from 0.8.8 to 0.9.3 also carry V2 (``llamafiler``, or ``--v2`` from 0.9.0); it has to be
    asked for, so the answer for them is V1.
    """
    numbers = parse_version(version)
    if numbers is None:
        return None
    return Family.V10 if numbers >= (0, 10, 0) else Family.V1
