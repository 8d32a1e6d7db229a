"""Fixed pieces of an input: what a bulk job computes, keeps and repeats as one. Pure."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llamafile_mgr.bulk.text_records import TextRecord

__all__ = ["Fragment", "split_fragments"]


@dataclass(frozen=True, slots=True)
class Fragment:
    """``index``: from 0. ``digest``: of ids and texts, so that a changed input is noticed."""

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
