"""One text of a bulk job on its way in, and what became of it on its way out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Failure", "Id", "TextRecord", "TextResult", "bad_record", "make_record"]

Id = int | str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a text has no vector; ``code`` is a word for programs."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class TextRecord:
    """A text and its id; one that could not be read has a ``failure`` instead of a text."""

    id: Id
    text: str
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class TextResult:
    """A unit vector, or why there is none. ``truncated``: how the text was cut, None when it was not."""

    vector: NDArray[np.float32] | None = None
    failure: Failure | None = None
    truncated: str | None = None


def make_record(place: Id, given_id: object, text: object, what: str) -> TextRecord:
    """Return the record of an input's item. ``place``: its id when it has none of its own.

    ``what``: names the item in the message about a text that is none.
    """
    if given_id is not None and (isinstance(given_id, bool) or not isinstance(given_id, (int, str))):
        return bad_record(place, f"{what} has an id that is neither a number nor a text")
    known = place if given_id is None else given_id
    if isinstance(known, int) and not -(2**63) <= known < 2**63:
        known = str(known)
    if not isinstance(text, str):
        return bad_record(known, f"{what} has no text")
    try:
        text.encode()
        str(known).encode()
    except UnicodeEncodeError:
        return bad_record(place, f"{what} is no Unicode text")
    return TextRecord(known, text)


def bad_record(known: Id, message: str) -> TextRecord:
    """Return the record of an item that could not be read."""
    return TextRecord(known, "", Failure("unreadable", message))
