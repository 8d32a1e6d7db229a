"""The store: files by content, names that point at them, and who uses them now."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from llamafile_mgr.catalog import ArtifactKind, load_catalog
from llamafile_mgr.errors import IntegrityError, NotFoundError, StoreError
from llamafile_mgr.files import lift_quarantine, store_errors, sync_directory, sync_file, write_atomically
from llamafile_mgr.locks import Locks
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.processes import Holder
from llamafile_mgr.store.block_hashes import BlockHashes, write_blocks
from llamafile_mgr.store.holds import add_hold, drop_hold, living_holders
from llamafile_mgr.store.layout import Layout
from llamafile_mgr.store.parts import PartInfo, make_part, remove_part
from llamafile_mgr.store.ranges import Range
from llamafile_mgr.store.records import NameRecord, StoredArtifact, Trust, parse_record, record_json, stored

#: Changes of names and blobs are short; one that holds them up this long hangs.
_BUSY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Removal:
    """What a removal did: the names that are gone and the bytes that the disk got back."""

    names: tuple[str, ...]
    freed_bytes: int


class Store:
    """The files below one directory, which only its owner can enter; made when first needed."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root.absolute())

    @property
    def root(self) -> Path:
        """Return the directory of the store."""
        return self.layout.root

    def prepare(self) -> Layout:
        """Create the directories, owner only, and return the layout.

        Raises:
            StoreError: a directory cannot be made, or leads elsewhere.
        """
        ensure_private_dir(self.root)
        for directory in self.layout.directories():
            if directory.is_symlink():
                raise StoreError(
                    f"{directory} is a symbolic link",
                    hint="move the whole store with LLAMAFILE_MGR_HOME rather than parts of it",
                )
            ensure_private_dir(directory)
        return self.layout

    @functools.cached_property
    def locks(self) -> Locks:
        """Return the locks between processes, of a kind that works on this file system."""
        self.prepare()
        return Locks(self.root / "locks")

    # --- reading ---------------------------------------------------------------------------------

    def entries(self) -> list[StoredArtifact]:
        """Return everything that has a name and a file, in the order of the names."""
        records, _ = self.records()
        return [entry for record in records if (entry := self._join(record)) is not None]

    def records(self) -> tuple[list[NameRecord], list[Path]]:
        """Return all records in the order of their names, and the files that are none."""
        records, broken = [], []
        for path in sorted((self.root / "names").glob("[!.]*.json")):
            record = self._read_record(path)
            if record is not None:
                records.append(record)
            elif path.exists():
                broken.append(path)
        return sorted(records, key=lambda record: record.name), broken

    def _read_record(self, path: Path) -> NameRecord | None:
        try:
            record = parse_record(path.read_bytes())
        except (OSError, ValueError):
            return None
        return record if self.layout.record(record.name) == path else None

    def find(self, name: str, *, damaged_too: bool = False) -> StoredArtifact:
        """Return the file of ``MODEL``, ``MODEL:ARTIFACT``, a runtime or an imported name.

        A bare model id means its recommended artifact when that is here, else the one that arrived
        last.

        Raises:
            NotFoundError: it is not here; the hint is the command that fetches it.
            IntegrityError: it is here and damaged (``damaged_too`` returns it all the same).
        """
        records, _ = self.records()
        matching = [record for record in records if record.name == name]
        if not matching:
            matching = _of_model(name, [record for record in records if record.model_id == name])
        for record in matching:
            entry = self._join(record)
            if entry is None:
                continue
            if entry.damaged and not damaged_too:
                raise IntegrityError(
                    f"{record.name} is damaged on this disk",
                    cause="a check found blocks that differ from what was downloaded",
                    hint=f"llamafile-mgr verify --repair {record.name}",
                )
            return entry
        raise NotFoundError(f"{name} is not in the store", hint=_how_to_get(name, records))

    def by_digest(self, digest: str, conversion: str | None) -> StoredArtifact | None:
        """Return a sound entry whose file has this digest, or was made so of one that has it."""
        records, _ = self.records()
        for record in records:
            if digest in (record.digest, record.source_digest) and record.conversion == conversion:
                entry = self._join(record)
                if entry is not None and not entry.damaged:
                    return entry
        return None

    def _join(self, record: NameRecord) -> StoredArtifact | None:
        path, damaged = self.layout.blob(record.digest), False
        if not _is_file(path):
            path, damaged = self.layout.damaged(record.digest), True
            if not _is_file(path):
                return None
        try:
            used = datetime.fromtimestamp(self.layout.used(record.digest).stat().st_mtime, tz=UTC)
        except OSError:
            used = None
        return stored(record, path, used, damaged)

    # --- use -------------------------------------------------------------------------------------

    def touch(self, digest: str) -> None:
        """Note that a blob is used now; failing to is no error."""
        path = self.layout.used(digest)
        with contextlib.suppress(OSError):
            path.touch(mode=0o600)
            os.utime(path)

    @contextlib.contextmanager
    def hold(self, digest: str, purpose: str = "serve") -> Iterator[Path]:
        """Keep a blob from removal while inside; a process that dies does not keep it.

        Raises:
            NotFoundError: the blob is not here (any more).
        """
        with self.locked():
            path = self.layout.blob(digest)
            if not _is_file(path):
                raise NotFoundError(f"the file {digest[:12]} is not in the store any more")
            record = add_hold(self.layout.holds(digest), purpose)
            self.touch(digest)
        try:
            yield path
        finally:
            drop_hold(record)

    def holders(self, digest: str) -> list[Holder]:
        """Return the living processes that use a blob."""
        return living_holders(self.layout.holds(digest))

    # --- writing ---------------------------------------------------------------------------------

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the store's own lock: for short changes of names and blobs only."""
        return self.locks.held(self.layout.lock("store"), seconds=_BUSY_SECONDS)

    def publish(self, path: Path, hashes: BlockHashes, record: NameRecord) -> StoredArtifact:
        """Move the verified file ``path`` into the store under the record's name.

        Only here does a file get its final mode: its digest has matched. The bytes, the block hashes,
        the blob's name and the record reach the disk in this order.

        Raises:
            StoreError: the disk failed; the file stays where it was.
        """
        if hashes.sha256 != record.digest:
            raise IntegrityError(f"{record.name} was to be published with a digest that it does not have")
        blob = self.layout.blob(record.digest)
        with self.locked(), store_errors(blob):
            write_blocks(self.layout.blocks(record.digest), hashes)
            program = record.kind is not ArtifactKind.WEIGHTS or self._is_program(record.digest)
            if record.trust is not Trust.FIRST_USE:
                lift_quarantine(path)
            sync_file(path)
            path.chmod(0o500 if program else 0o400)
            os.replace(path, blob)
            sync_directory(blob.parent)
            self.layout.damaged(record.digest).unlink(missing_ok=True)
            self._write_record(record)
        return self._entry(record)

    def name(self, record: NameRecord) -> StoredArtifact:
        """Let a name point at a blob that is here.

        Raises:
            NotFoundError: there is no such blob.
        """
        blob = self.layout.blob(record.digest)
        with self.locked(), store_errors(blob):
            if not _is_file(blob):
                raise NotFoundError(f"the file of {record.name} is not in the store")
            if record.kind is not ArtifactKind.WEIGHTS:
                blob.chmod(0o500)
            self._write_record(record)
        return self._entry(record)

    def _entry(self, record: NameRecord) -> StoredArtifact:
        entry = self._join(record)
        if entry is None:
            raise StoreError(f"the file of {record.name} vanished from the store")
        return entry

    def _write_record(self, record: NameRecord) -> None:
        import json

        text = json.dumps(record_json(record), indent=1)
        write_atomically(self.layout.record(record.name), text.encode())

    def _is_program(self, digest: str) -> bool:
        records, _ = self.records()
        return any(r.digest == digest and r.kind is not ArtifactKind.WEIGHTS for r in records)

    def confirm(self, digest: str, when: datetime) -> None:
        """Note for every name of a blob that its digest matched at ``when``."""
        with self.locked():
            for record in self.records()[0]:
                if record.digest == digest:
                    with store_errors(self.layout.record(record.name)):
                        self._write_record(replace(record, verified_at=when))

    def set_damaged(self, digest: str) -> Path:
        """Put a blob that failed its check aside, not executable, and return its path."""
        blob, aside = self.layout.blob(digest), self.layout.damaged(digest)
        with self.locked(), store_errors(blob):
            if _is_file(blob):
                blob.chmod(0o600)
                os.replace(blob, aside)
                sync_directory(blob.parent)
        return aside

    def salvage(self, digest: str, info: PartInfo, damage: Sequence[Range]) -> None:
        """Turn a blob that was put aside into an unfinished download that lacks the ``damage``."""
        aside, directory = self.layout.damaged(digest), self.layout.part(digest)
        with self.locked(), store_errors(directory):
            if not _is_file(aside):
                return
            remove_part(directory)
            make_part(directory, info, aside, damage)

    def readmit(self, entry: StoredArtifact) -> None:
        """Take a blob back that was put aside and whose digest has matched again."""
        blob, aside = self.layout.blob(entry.digest), self.layout.damaged(entry.digest)
        with self.locked(), store_errors(blob):
            sync_file(aside)
            aside.chmod(0o500 if self._is_program(entry.digest) else 0o400)
            os.replace(aside, blob)
            sync_directory(blob.parent)

    def remove(self, name: str) -> Removal:
        """Remove a name, and its file when no other name points at it.

        Raises:
            NotFoundError: there is no such name.
            StoreError: a running process uses the file.
        """
        entry = self.find(name, damaged_too=True)
        with self.locked(), store_errors(entry.path):
            shared = any(
                record.digest == entry.digest and record.name != entry.name for record in self.records()[0]
            )
            if not shared:
                self.refuse_when_held(entry.name, entry.digest)
            self.layout.record(entry.name).unlink(missing_ok=True)
            sync_directory(self.root / "names")
            return Removal((entry.name,), 0 if shared else self.drop_blob(entry.digest))

    def refuse_when_held(self, name: str, digest: str) -> None:
        """Raise ``StoreError`` while a living process uses a blob."""
        holders = self.holders(digest)
        if holders:
            who = ", ".join(f"{holder.purpose} (process {holder.pid})" for holder in holders)
            raise StoreError(f"{name} is in use by {who}", hint="stop it first: llamafile-mgr stop")

    def drop_blob(self, digest: str) -> int:
        """Delete a blob with all that belongs to it and return the bytes freed; hold the lock."""
        freed = 0
        for path in (self.layout.blob(digest), self.layout.damaged(digest)):
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                # Another hard link, such as the file that was imported, keeps the bytes.
                freed += status.st_size if status.st_nlink == 1 else 0
                path.unlink()
        for path in (self.layout.blocks(digest), self.layout.used(digest)):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.layout.holds(digest).rmdir()
        return freed


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _of_model(model_id: str, records: list[NameRecord]) -> list[NameRecord]:
    """Order the artifacts of one model: the catalog's recommended one first, then the newest."""
    if len(records) < 2:
        return records  # people wait for this: no catalog is read to choose from one
    model = load_catalog().models.get(model_id)
    recommended = model.artifacts[0].name if model else None
    newest = sorted(records, key=lambda record: record.verified_at, reverse=True)
    return sorted(newest, key=lambda record: record.artifact != recommended)


def _how_to_get(name: str, records: list[NameRecord]) -> str:
    catalog = load_catalog()
    try:
        catalog.find(name)
    except NotFoundError:
        known = {record.name for record in records} | {r.model_id for r in records if r.model_id}
        choices = sorted(known | set(catalog.models) | set(catalog.runtimes))
        near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
        if ":" in name and "/" in name:  # where a file is to be fetched from
            return f"llamafile-mgr pull {name}"
        if not near:
            return "llamafile-mgr list says what is here; it is no name of the catalog either"
        here = near[0] in known
        return f"did you mean {near[0]}?" + ("" if here else f" (llamafile-mgr pull {near[0]} fetches it)")
    return f"llamafile-mgr pull {name}"
