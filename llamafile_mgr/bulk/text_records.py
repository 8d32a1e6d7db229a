"""The texts of a bulk job: on their way in, in fixed pieces, and what became of each on its way out. Pure."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
class Fragment:
    """A fixed piece of an input, which is computed, kept and repeated as one. ``index``: from 0."""

    index: int
    records: tuple[TextRecord, ...]

    @property
    def digest(self) -> str:
        """Return 32 hex digits that differ when an id or a text does."""
        digest = hashlib.blake2b(digest_size=16)
        for record in self.records:
            parts = (repr(record.id), record.text, record.failure.message if record.failure else "")
            for part in parts:
                data = part.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


def split_fragments(inputs: Iterable[Iterable[TextRecord]], size: int) -> Iterator[Fragment]:
    """Yield the records of every input in pieces of ``size``; the last one of each may be smaller."""
    index = itertools.count()
    for records in inputs:
        source = iter(records)
        while taken := tuple(itertools.islice(source, size)):
            yield Fragment(next(index), taken)
