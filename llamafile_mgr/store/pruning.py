"""Giving room back: files that no name points at, old unfinished downloads, leftovers of crashes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.errors import StoreError
from llamafile_mgr.files import store_errors
from llamafile_mgr.locks import LockBusyError
from llamafile_mgr.store.layout import is_digest
from llamafile_mgr.store.parts import peek, remove_part
from llamafile_mgr.store.store import Store

#: An unfinished download younger than this is taken for one that will be resumed.
KEEP_PARTS_SECONDS = 14 * 24 * 3600.0
_KEEP_TEMPORARY_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Waste:
    """One thing that is not needed: what it is and how many bytes it takes."""

    what: str
    path: Path
    size: int


def prune(store: Store, *, every_part: bool = False, dry_run: bool = False) -> list[Waste]:
    """Remove what is not needed and return it; with ``dry_run`` remove nothing.

    Unfinished downloads are kept for two weeks (``every_part`` keeps none), and always while a
    process works on them. Files that a process uses stay.

    Raises:
        StoreError: a record cannot be read, so that what is needed is not known; nothing is removed.
    """
    if not store.root.is_dir():
        return []
    with store.locked(), store_errors(store.root):
        records, broken = store.records()
        if broken:
            raise StoreError(
                f"{broken[0]} cannot be read, so nothing is removed",
                cause="the file that it points at would look unused",
                hint=f"pull that name again, or remove {broken[0]} yourself",
            )
        needed = {record.digest for record in records}
        waste = list(_unneeded_blobs(store, needed))
        waste += _old(store.layout.temporary, "leftover of a crash", _KEEP_TEMPORARY_SECONDS)
        if not dry_run:
            for item in waste:
                if item.what == "file without a name":
                    store.drop_blob(item.path.name.partition(".")[0])
                item.path.unlink(missing_ok=True)
    return [*waste, *_parts(store, 0.0 if every_part else KEEP_PARTS_SECONDS, dry_run)]


def _unneeded_blobs(store: Store, needed: set[str]) -> Iterator[Waste]:
    for path in sorted((store.root / "blobs").iterdir()):
        digest = path.name.partition(".")[0]
        if is_digest(digest) and digest not in needed and not store.holders(digest):
            yield Waste("file without a name", path, path.lstat().st_size)


def _old(directory: Path, what: str, seconds: float) -> Iterator[Waste]:
    for path in sorted(directory.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            if time.time() - status.st_mtime >= seconds:
                yield Waste(what, path, status.st_size)


def _parts(store: Store, seconds: float, dry_run: bool) -> Iterator[Waste]:
    for directory in sorted((store.root / "parts").iterdir()):
        if not is_digest(directory.name):
            continue
        lock = store.layout.lock(directory.name)
        with contextlib.suppress(LockBusyError), store.locks.held(lock):
            age = time.time() - directory.stat().st_mtime
            with contextlib.suppress(FileNotFoundError):
                age = time.time() - (directory / "map").stat().st_mtime
            if age < seconds:
                continue
            seen = peek(directory)
            yield Waste("unfinished download", directory, seen[1] if seen else 0)
            if not dry_run:
                remove_part(directory)
