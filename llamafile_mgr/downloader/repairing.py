"""Mending a damaged file: only its bad blocks are fetched, the good ones stay.

The damaged file becomes an unfinished download whose map lacks the bad blocks. From there on it is
an ordinary pull: it may be interrupted, resumed, and it is checked as a whole before it may run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader.hub_sources import PullTarget
from llamafile_mgr.downloader.pull_events import Progress
from llamafile_mgr.downloader.pulling import PullOptions, pull
from llamafile_mgr.errors import IntegrityError
from llamafile_mgr.store import Range, Store, StoredArtifact


async def repair(
    entry: StoredArtifact,
    damage: Sequence[Range] | None,
    store: Store,
    config: DownloadConfig,
    progress: Progress,
    *,
    environ: Mapping[str, str] | None = None,
) -> StoredArtifact:
    """Fetch the bad blocks of ``entry`` (the whole file when they are not known) and return it sound.

    Raises:
        IntegrityError: the file cannot be fetched from anywhere, or the hub has another one now.
        DownloadError, StoreError: as for ``pull``.
    """
    if entry.conversion is not None:
        raise IntegrityError(
            f"{entry.name} was converted on this computer, so single blocks cannot be fetched",
            hint=f"llamafile-mgr rm {entry.name}, then llamafile-mgr pull {entry.name}",
        )
    if entry.source.startswith("file:"):
        raise IntegrityError(
            f"{entry.name} was imported from a file, so its blocks cannot be fetched",
            hint="import it again from a sound copy",
        )
    store.refuse_when_held(entry.name, entry.digest)
    target = PullTarget(
        name=entry.name,
        source=_at_revision(entry.source, entry.revision),
        kind=entry.kind,
        size=entry.size,
        sha256=entry.digest,
        model_id=entry.model_id,
        artifact=entry.artifact,
        role=entry.role,
        licence=entry.licence,
        engine_version=entry.engine_version,
    )
    options = PullOptions(damage=tuple(damage) if damage is not None else None, trust=entry.trust)
    return await pull(target, store, config, progress, options=options, environ=environ)


def _at_revision(source: str, revision: str | None) -> str:
    """Return the source as of the commit that it came from: the hub may have replaced the file since."""
    if source.startswith("hf:") and revision:
        return f"{source.partition('@')[0]}@{revision}"
    return source
