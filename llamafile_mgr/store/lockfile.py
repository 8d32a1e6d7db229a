"""``llamafile.lock``: address, revision, size and digest of every artifact of a project.

``pull --locked`` takes exactly these bytes or fails. The file is TOML, sorted by name, so that a
change of one artifact is a change of a few lines.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from llamafile_mgr.catalog import ArtifactKind
from llamafile_mgr.errors import InvalidFileError, NotFoundError, UsageError
from llamafile_mgr.files import store_errors, write_atomically
from llamafile_mgr.store.layout import check_digest, check_name
from llamafile_mgr.store.records import StoredArtifact
from llamafile_mgr.typed_values import read_record

LOCK_FILE = "llamafile.lock"
_HEAD = "# Written by `llamafile-mgr pull --lock`; `llamafile-mgr pull --locked` takes exactly these files.\n"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class LockedArtifact:
    """One pinned artifact. ``size`` and ``sha256`` are of the file as it arrives."""

    name: str
    kind: ArtifactKind
    source: str
    size: int
    sha256: str
    url: str | None = None
    revision: str | None = None
    conversion: str | None = None


def locked(entry: StoredArtifact) -> LockedArtifact:
    """Return the pin of what is in the store; a hub's commit becomes part of the source.

    Raises:
        UsageError: the file came from this computer, so that nobody else could fetch it.
    """
    if entry.source.startswith("file:"):
        raise UsageError(
            f"{entry.name} was imported from a file, which a lock file cannot pin",
            hint="pass it on in a kit: llamafile-mgr kit export",
        )
    source, revision = entry.source, entry.revision
    if source.startswith("hf:") and revision and _COMMIT.fullmatch(revision):
        source = f"{source.partition('@')[0]}@{revision}"
    return LockedArtifact(
        name=entry.name,
        kind=entry.kind,
        source=source,
        size=entry.source_size if entry.source_size is not None else entry.size,
        sha256=entry.source_digest or entry.digest,
        url=entry.url,
        revision=revision,
        conversion=entry.conversion,
    )


def format_lock(artifacts: Iterable[LockedArtifact]) -> str:
    """Return the text of a lock file."""
    blocks = [_HEAD, "version = 1\n"]
    for artifact in sorted(artifacts, key=lambda one: one.name):
        lines = ["[[artifact]]"]
        for field in fields(artifact):
            value = getattr(artifact, field.name)
            if isinstance(value, ArtifactKind):
                value = value.value
            if value is not None:
                lines.append(f"{field.name} = {_toml(value)}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _toml(value: str | int) -> str:
    """Return a TOML value: a JSON string is one, once DEL is escaped and nothing beyond it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse_lock(text: str, where: str = LOCK_FILE) -> dict[str, LockedArtifact]:
    """Read a lock file, by name.

    Raises:
        InvalidFileError: broken TOML, an unknown key, a wrong type, two entries of one name.
    """
    try:
        document = tomllib.loads(text)
        if document.get("version") != 1:
            raise ValueError(f"version {document.get('version')!r} is not known")
        artifacts = [_read(entry) for entry in document.get("artifact", [])]
    except (ValueError, TypeError, UsageError) as error:
        raise InvalidFileError(f"{where} is no valid lock file: {error}") from error
    found = {artifact.name: artifact for artifact in artifacts}
    if len(found) != len(artifacts):
        raise InvalidFileError(f"{where} has two entries of one name")
    return found


def _read(entry: object) -> LockedArtifact:
    artifact = read_record(entry, LockedArtifact, "an artifact")
    check_name(artifact.name)
    check_digest(artifact.sha256)
    return artifact


def read_lock(path: Path) -> dict[str, LockedArtifact]:
    """Read the lock file at ``path``.

    Raises:
        NotFoundError: there is none.
        InvalidFileError: it makes no sense.
    """
    try:
        return parse_lock(path.read_text(encoding="utf-8-sig"), str(path))
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no lock file {path}", hint="write one: llamafile-mgr pull --lock NAME..."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"cannot read {path}: {error}") from error


def write_lock(path: Path, artifacts: Iterable[LockedArtifact]) -> None:
    """Replace the lock file at ``path``, atomically."""
    with store_errors(path):
        write_atomically(path, format_lock(artifacts).encode(), mode=0o644)
