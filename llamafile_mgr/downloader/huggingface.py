"""Files that Hugging Face's own tools have fetched before: used instead of fetching them again."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from llamafile_mgr.downloader.hub_sources import Hub, Source
from llamafile_mgr.store.layout import is_digest

_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def hub_is_offline(environ: Mapping[str, str]) -> bool:
    """Tell whether ``HF_HUB_OFFLINE`` forbids asking the hub."""
    return environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")


def cached_file(source: Source, sha256: str | None, environ: Mapping[str, str]) -> tuple[Path, str] | None:
    """Return a cached blob of this source and its digest: the one asked for, or the revision's.

    The cache names a blob after its digest. That is only its claim: the caller checks it.
    """
    if source.hub is not Hub.HUGGING_FACE:
        return None
    repository = _cache_root(environ) / f"models--{source.path[0]}--{source.path[1]}"
    if sha256 is not None:
        blob = repository / "blobs" / sha256
        return (blob, sha256) if blob.is_file() else None
    revision = source.revision or "main"
    if not _COMMIT.fullmatch(revision):
        try:
            revision = (repository / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    for snapshot in sorted((repository / "snapshots").glob(f"{revision}*")):
        blob = snapshot.joinpath(*source.path[2:]).resolve()
        if blob.parent == (repository / "blobs").resolve() and is_digest(blob.name) and blob.is_file():
            return blob, blob.name
    return None


def _cache_root(environ: Mapping[str, str]) -> Path:
    explicit = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if explicit:
        return Path(os.path.expanduser(explicit))
    home = environ.get("HF_HOME")
    if home:
        return Path(os.path.expanduser(home), "hub")
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(cache), "huggingface", "hub")
