"""Files that are on this computer already: into the store by link, reflink or copy."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from llamafile_mgr.catalog import Artifact, Catalog, Model
from llamafile_mgr.errors import DiskFullError, InvalidFileError, NotFoundError, UsageError
from llamafile_mgr.files import clone_or_copy, free_bytes, link_file, store_errors, temporary_name
from llamafile_mgr.store.block_hashes import hash_file
from llamafile_mgr.store.kinds import kind_of_file
from llamafile_mgr.store.records import NameRecord, StoredArtifact, Trust, catalog_facts
from llamafile_mgr.store.store import Store


class Method(StrEnum):
    """How a file comes in. ``COPY`` shares the blocks where the file system can (a reflink).

    ``LINK`` makes the store and the file one: it becomes read-only, and a later change of it would
    damage the store, which ``verify`` finds.
    """

    COPY = "copy"
    LINK = "link"


def import_file(
    path: Path,
    store: Store,
    catalog: Catalog,
    *,
    name: str | None = None,
    sha256: str | None = None,
    method: Method = Method.COPY,
) -> tuple[StoredArtifact, str]:
    """Take a local file into the store; return its entry and how it came in.

    A file whose digest the catalog pins gets the catalog's name, unless ``name`` says otherwise.

    Raises:
        NotFoundError: there is no such file.
        InvalidFileError: it is no llamafile and no GGUF, or has another digest than ``sha256``.
        StoreError: the store cannot be written; ``DiskFullError`` when it does not fit.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}")
    store.prepare()
    temporary = temporary_name(store.layout.temporary)
    try:
        with store_errors(temporary):
            how = _bring(path, temporary, method)
        kind = kind_of_file(temporary, str(path))
        hashes = hash_file(temporary)
        if sha256 is not None and hashes.sha256 != sha256:
            raise InvalidFileError(
                f"{path} has the digest {hashes.sha256}, not {sha256}", hint="nothing was imported"
            )
        known = _in_catalog(catalog, hashes.sha256)
        facts: dict[str, Any] = {"name": path.name, "kind": kind, "source": path.absolute().as_uri()}
        if known:
            facts = catalog_facts(*known)
        if name:
            facts["name"] = name
        record = NameRecord(
            digest=hashes.sha256,
            size=hashes.size,
            trust=Trust.PINNED if known or sha256 else Trust.FIRST_USE,
            verified_at=datetime.now(UTC).replace(microsecond=0),
            **facts,
        )
        return store.publish(temporary, hashes, record), how
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _bring(path: Path, temporary: Path, method: Method) -> str:
    if method is Method.LINK:
        if link_file(path, temporary):
            return "link"
        raise UsageError(
            f"{path} cannot be linked into the store",
            cause="it is on another file system, or belongs to someone else",
            hint="import it without --link",
        )
    missing = path.stat().st_size - free_bytes(temporary.parent)
    try:
        return clone_or_copy(path, temporary)
    except OSError as error:
        if missing > 0:
            raise DiskFullError(
                f"{path.name} does not fit: {missing:,} bytes are missing",
                cause=error.strerror,
                hint="make room, or import it with --link from the same file system",
            ) from error
        raise


def _in_catalog(catalog: Catalog, digest: str) -> tuple[Model | None, Artifact] | None:
    for model in catalog.models.values():
        for artifact in model.artifacts:
            if artifact.sha256 == digest and artifact.conversion is None:
                return model, artifact
    for runtime in catalog.runtimes.values():
        if runtime.sha256 == digest:
            return None, runtime
    return None
