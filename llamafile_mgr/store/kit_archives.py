"""Kits: one archive with models, runtimes and their pins, for a machine without internet.

A kit is a plain tar file: ``kit.json`` first, then ``blobs/SHA256`` for every file. Reading one
trusts nothing in it: only these two forms of names are taken, only regular files, every blob must
have the digest that it is named after, and nothing gets a name before all of it has been checked.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from llamafile_mgr.catalog import Catalog
from llamafile_mgr.errors import DiskFullError, IntegrityError, InvalidFileError, NotFoundError, StoreError
from llamafile_mgr.files import free_bytes, replacing, store_errors, temporary_name
from llamafile_mgr.store.block_hashes import BlockHashes, Digester
from llamafile_mgr.store.layout import is_digest
from llamafile_mgr.store.records import NameRecord, StoredArtifact, Trust, parse_record, record_json
from llamafile_mgr.store.store import Store

_MANIFEST = "kit.json"
_MOST_MANIFEST_BYTES = 4 * 1024 * 1024
_COPY_BYTES = 1024 * 1024


class _HashingReader(io.RawIOBase):
    """Hashes what is read through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digester = Digester()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.digester.update(memoryview(data))
        return data


def export_kit(entries: Iterable[StoredArtifact], target: Path) -> int:
    """Write ``entries`` into the new archive ``target`` and return its size in bytes.

    Raises:
        StoreError: ``target`` exists or cannot be written; ``DiskFullError`` when it does not fit.
        IntegrityError: a file is damaged; no archive is left.
    """
    chosen = list(entries)
    if target.exists():
        raise StoreError(f"{target} exists already", hint="name another file, or move it away")
    manifest = json.dumps(
        {"version": 1, "records": [record_json(entry) for entry in chosen]}, indent=1
    ).encode()
    with (
        store_errors(target),
        replacing(target, overwrite=False) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        archive.addfile(_member(_MANIFEST, len(manifest)), io.BytesIO(manifest))
        for digest, entry in {entry.digest: entry for entry in chosen}.items():
            _add_blob(archive, digest, entry)
    return target.stat().st_size


def _add_blob(archive: tarfile.TarFile, digest: str, entry: StoredArtifact) -> None:
    with entry.path.open("rb") as blob:
        reader = _HashingReader(blob)
        archive.addfile(_member(f"blobs/{digest}", entry.size), reader)
    if reader.digester.finish().sha256 != digest:
        raise IntegrityError(
            f"{entry.name} is damaged on this disk; no kit was written",
            hint=f"llamafile-mgr verify --repair {entry.name}",
        )


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o400
    return member


#: One blob of a kit, checked, still under a temporary name.
_Arrived = tuple[Path, BlockHashes]


def import_kit(source: Path, store: Store, catalog: Catalog) -> list[StoredArtifact]:
    """Take everything that a kit holds into the store and return it.

    Raises:
        NotFoundError: there is no such archive.
        InvalidFileError: it is no kit, is cut, or holds what a kit must not hold.
        IntegrityError: a file has another digest than its name, or than this catalog pins.
        StoreError: a name is taken by other bytes; ``DiskFullError`` when it does not fit.
    """
    store.prepare()
    arrived: dict[str, _Arrived] = {}
    try:
        with contextlib.ExitStack() as stack:
            archive = _open(source, stack)
            members = iter(archive)
            records = _read_manifest(archive, next(members, None), source)
            _check_records(records, store, catalog)
            wanted = {r.digest: r.size for r in records if not store.layout.blob(r.digest).is_file()}
            _check_space(store, sum(wanted.values()))
            listed = {record.digest: record.size for record in records}
            for member in members:
                digest = _check_member(member, listed, arrived, source)
                if digest in wanted:
                    arrived[digest] = _take(archive, member, digest, store)
            absent = set(wanted) - set(arrived)
            if absent:
                raise InvalidFileError(f"{source} is incomplete: {sorted(absent)[0][:12]} is not in it")
        return [_publish(record, store, catalog, arrived) for record in records]
    except (tarfile.TarError, EOFError) as error:
        raise InvalidFileError(f"{source} is no sound kit: {error}") from error
    finally:
        for path, _ in arrived.values():
            path.unlink(missing_ok=True)


def _open(source: Path, stack: contextlib.ExitStack) -> tarfile.TarFile:
    try:
        return stack.enter_context(tarfile.open(source, "r:"))
    except FileNotFoundError:
        raise NotFoundError(f"there is no kit {source}") from None
    except OSError as error:
        raise InvalidFileError(f"cannot read {source}: {error.strerror or error}") from error


def _read_manifest(
    archive: tarfile.TarFile, member: tarfile.TarInfo | None, source: Path
) -> list[NameRecord]:
    if member is None or member.name != _MANIFEST or not member.isreg() or member.size > _MOST_MANIFEST_BYTES:
        raise InvalidFileError(f"{source} is no kit: it does not begin with {_MANIFEST}")
    stream = archive.extractfile(member)
    try:
        document = json.loads(stream.read() if stream else b"")
        if document["version"] != 1:
            raise ValueError(f"version {document['version']!r} is not known")
        records = [parse_record(json.dumps(record)) for record in document["records"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidFileError(f"{source} has a manifest that makes no sense: {error}") from error
    sizes: dict[str, int] = {}
    for record in records:
        if sizes.setdefault(record.digest, record.size) != record.size:
            raise InvalidFileError(f"{source} gives one file two sizes")
    return records


def _check_records(records: list[NameRecord], store: Store, catalog: Catalog) -> None:
    for record in records:
        pin = _pin(record, catalog)
        if pin is not None and pin != record.digest:
            raise IntegrityError(
                f"the kit's file for {record.name} is not the one that the catalog pins",
                cause=f"it is {record.digest}, the pin is {pin}",
                hint="make the kit with this version of llamafile-mgr",
            )
        with contextlib.suppress(NotFoundError):
            here = store.find(record.name, damaged_too=True)
            if here.name == record.name and here.digest != record.digest and not here.damaged:
                raise StoreError(
                    f"{record.name} is here already, with other bytes",
                    hint=f"remove it first: llamafile-mgr rm {record.name}",
                )


def _pin(record: NameRecord, catalog: Catalog) -> str | None:
    """Return the digest that our own catalog pins for the file of this name, None where it pins none."""
    try:
        _, artifact = catalog.find(record.name)
    except NotFoundError:
        return None
    return artifact.converted_sha256 if artifact.conversion else artifact.sha256


def _check_space(store: Store, needed: int) -> None:
    free = free_bytes(store.root)
    if needed > free:
        raise DiskFullError(
            f"the kit does not fit: {needed - free:,} bytes are missing",
            hint="make room (llamafile-mgr prune), or move the store with LLAMAFILE_MGR_HOME",
        )


def _check_member(
    member: tarfile.TarInfo, listed: dict[str, int], arrived: dict[str, _Arrived], source: Path
) -> str:
    folder, _, digest = member.name.partition("/")
    regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
    if folder != "blobs" or not is_digest(digest) or not regular or member.sparse is not None:
        raise InvalidFileError(f"{source} holds {member.name!r}, which no kit holds; nothing was imported")
    if digest in arrived or listed.get(digest) != member.size:
        raise InvalidFileError(f"{source} holds {digest[:12]} in another way than its manifest says")
    return digest


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, digest: str, store: Store) -> _Arrived:
    stream = archive.extractfile(member)
    if stream is None:
        raise InvalidFileError(f"{member.name} of the kit cannot be read")
    temporary = temporary_name(store.layout.temporary)
    reader = _HashingReader(stream)
    try:
        with store_errors(temporary):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as output:
                while data := reader.read(_COPY_BYTES):
                    output.write(data)
        hashes = reader.digester.finish()
        if hashes.size != member.size:
            raise InvalidFileError(f"the kit is cut: {digest[:12]} ends too early")
        if hashes.sha256 != digest:
            raise IntegrityError(
                f"a file of the kit has the digest {hashes.sha256}, not {digest}",
                cause="the kit was damaged or changed on its way",
                hint="copy the kit again; nothing was imported",
            )
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary, hashes


def _publish(
    record: NameRecord, store: Store, catalog: Catalog, arrived: dict[str, _Arrived]
) -> StoredArtifact:
    # What the kit says is its own claim: what we know of these bytes counts, else this catalog's pins alone.
    known = [each for each in store.records()[0] if (each.name, each.digest) == (record.name, record.digest)]
    blob = arrived.get(record.digest)
    if known and blob is None:
        return store.name(known[0])
    trust = Trust.PINNED if _pin(record, catalog) == record.digest else Trust.FIRST_USE
    record = known[0] if known else replace(record, trust=trust)
    record = replace(record, verified_at=datetime.now(UTC).replace(microsecond=0))
    if blob is None or not blob[0].exists():
        return store.name(record)
    return store.publish(*blob, record)
