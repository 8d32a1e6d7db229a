"""Finding damage: a stored file against its digest, and against the hashes of its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from llamafile_mgr.store.block_hashes import hash_file, read_blocks, write_blocks
from llamafile_mgr.store.ranges import Range
from llamafile_mgr.store.records import StoredArtifact
from llamafile_mgr.store.store import Store


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a check. ``damage``: the ranges whose blocks differ, None where that is unknown
    because there are no block hashes. ``found``: the digest of the file as it is now."""

    entry: StoredArtifact
    found: str
    damage: tuple[Range, ...] | None

    @property
    def sound(self) -> bool:
        """Tell whether the file is what it was when it arrived."""
        return self.found == self.entry.digest


def verify(store: Store, entry: StoredArtifact) -> Verification:
    """Read a stored file and compare it; a damaged one is put aside and loses its right to run.

    Raises:
        StoreError: the file cannot be read.
    """
    found = hash_file(entry.path)
    side_car = store.layout.blocks(entry.digest)
    if found.sha256 == entry.digest:
        if read_blocks(side_car) is None:
            write_blocks(side_car, found)
        if entry.damaged:
            store.readmit(entry)
        store.confirm(entry.digest, datetime.now(UTC).replace(microsecond=0))
        return Verification(entry, found.sha256, ())
    store.set_damaged(entry.digest)
    known = read_blocks(side_car)
    if known is None or known.sha256 != entry.digest or known.block != found.block:
        return Verification(entry, found.sha256, None)
    return Verification(entry, found.sha256, tuple(known.bounds(i) for i in known.bad_blocks(found)))
