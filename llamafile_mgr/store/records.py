"""What the store knows about each name: the typed entry and its form on disk."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

from llamafile_mgr.catalog import Artifact, ArtifactKind, Model, Role
from llamafile_mgr.errors import UsageError
from llamafile_mgr.store.layout import check_digest, check_name
from llamafile_mgr.typed_values import read_record


class Trust(StrEnum):
    """Where the digest came from that a file was checked against.

    ``PINNED``: the catalog or a lock file. ``HUB``: the hub's own headers or index.
    ``FIRST_USE``: nowhere; the digest of the first download was recorded.
    """

    PINNED = "pinned"
    HUB = "hub"
    FIRST_USE = "first-use"


@dataclass(frozen=True, slots=True)
class NameRecord:
    """One name in the store, as written to disk.

    ``digest``, ``size``: of the file on disk. ``url``: where its bytes came from. ``revision``: the
    hub's commit. ``source_digest``, ``source_size``: of the file as it arrived, where ``conversion``
    made another of it. ``verified_at``: when the digest last matched, UTC.
    """

    name: str
    digest: str
    size: int
    kind: ArtifactKind
    trust: Trust
    source: str
    verified_at: datetime
    url: str | None = None
    revision: str | None = None
    model_id: str | None = None
    artifact: str | None = None
    role: Role | None = None
    licence: str | None = None
    engine_version: str | None = None
    conversion: str | None = None
    source_digest: str | None = None
    source_size: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        check_digest(self.digest)
        if self.source_digest is not None:
            check_digest(self.source_digest)
        if self.size < 0:
            raise UsageError(f"the size of {self.name} is negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArtifact(NameRecord):
    """One name in the store with its file.

    ``path``: the file itself. ``last_used_at`` is None when nothing has used it yet. ``damaged``: a later
    check failed.
    """

    path: Path
    last_used_at: datetime | None
    damaged: bool

    @property
    def record(self) -> NameRecord:
        """Return what is written to disk of it."""
        return NameRecord(**_values(self))


def stored(record: NameRecord, path: Path, last_used_at: datetime | None, damaged: bool) -> StoredArtifact:
    """Join a record with what the disk says about its blob."""
    return StoredArtifact(**_values(record), path=path, last_used_at=last_used_at, damaged=damaged)


def _values(record: NameRecord) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(NameRecord)}


def catalog_facts(model: Model | None, artifact: Artifact) -> dict[str, Any]:
    """Return what the catalog says of a file, as fields of a record; a runtime belongs to no model."""
    facts: dict[str, Any] = (
        {}
        if model is None
        else {"model_id": model.id, "artifact": artifact.name, "role": model.role, "licence": model.licence}
    )
    return facts | {
        "name": f"{model.id}:{artifact.name}" if model else artifact.name,
        "source": artifact.source,
        "kind": artifact.kind,
        "engine_version": artifact.engine_version,
        "conversion": artifact.conversion,
    }


def artifact_json(entry: StoredArtifact) -> dict[str, object]:
    """Return what the store knows of an entry as plain JSON values."""
    used = entry.last_used_at
    return {
        **record_json(entry),
        "path": str(entry.path),
        "last_used_at": used.isoformat(timespec="seconds") if used else None,
        "damaged": entry.damaged,
    }


def record_json(record: NameRecord) -> dict[str, object]:
    """Return the record as plain JSON values, without the fields that are unknown."""
    values = {name: value for name, value in _values(record).items() if value is not None}
    values["verified_at"] = record.verified_at.astimezone(UTC).isoformat(timespec="seconds")
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


def parse_record(text: str | bytes) -> NameRecord:
    """Read a record back.

    Raises:
        ValueError: the text is no record.
    """
    try:
        return read_record(json.loads(text), NameRecord, "the record")
    except (UsageError, RecursionError) as error:
        raise ValueError(f"no valid record: {error}") from error
