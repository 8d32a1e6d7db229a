"""``If-Vector-Space``: vectors are given only when they fit those that the caller has. Pure.

The syntax is that of HTTP's If-Match (RFC 9110, 13.1.1): fingerprints, in quotes or bare, or ``*``.
"""

from __future__ import annotations

from collections.abc import Mapping

from llamafile_mgr.errors import VectorSpaceError

__all__ = ["CONDITION_HEADER", "SPACE_HEADER", "check_space"]

#: Carries the fingerprint of the vectors in an answer; names those that a request takes.
SPACE_HEADER, CONDITION_HEADER = "x-vector-space", "if-vector-space"
_SHOWN = 100


def check_space(headers: Mapping[str, str], space: str, model: str) -> None:
    """Check that a caller who names vector spaces names that of ``model``.

    Raises:
        VectorSpaceError: none of them is ``space``.
    """
    condition = headers.get(CONDITION_HEADER)
    if condition is None:
        return
    wanted = {part.strip().removeprefix("W/").strip('"') for part in condition.split(",")}
    if space in wanted or "*" in wanted:
        return
    shown = "".join(c if c.isprintable() and c.isascii() else "?" for c in condition[:_SHOWN])
    raise VectorSpaceError(
        f"vectors of {model} are of the space {space}, not {shown.strip() or 'an empty one'}",
        space=space,
        hint="ask for the model that the index was made with, or make the index again",
    )
