"""What a pull would do, from what is known without a network."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader.hub_sources import PullTarget, parse_source
from llamafile_mgr.downloader.pulling import effective
from llamafile_mgr.errors import IntegrityError, NotFoundError
from llamafile_mgr.store import Store, peek


@dataclass(frozen=True, slots=True)
class Preview:
    """One file that a pull would fetch.

    ``url``: of the file, or of the index that has its address. ``size``: bytes, None where only the hub
    knows them; ``exact``: it is no rounded figure. ``sha256``: what the file must have, None where the hub
    is asked and what arrives is recorded. ``arrived``: bytes that an earlier attempt left. ``path``: where
    it will lie, of an unknown digest the directory. ``present``: it is in the store.
    """

    name: str
    source: str
    url: str
    size: int | None
    exact: bool
    sha256: str | None
    licence: str | None
    arrived: int
    path: Path
    present: bool


def preview(
    target: PullTarget, store: Store, config: DownloadConfig, *, environ: Mapping[str, str] | None = None
) -> Preview:
    """Return what ``pull`` would do for ``target``; no connection is opened and nothing is written.

    Raises:
        UsageError: the source makes no address.
        StoreError: the store cannot be read.
    """
    url = parse_source(target.source, effective(config, os.environ if environ is None else environ)).url
    blobs = store.layout.root / "blobs"
    path, present, arrived = blobs, False, 0
    with contextlib.suppress(NotFoundError, IntegrityError):
        entry = store.find(target.name)
        present = target.is_met_by(entry)
        path = entry.path if present else path
    if target.sha256 is not None and not present:
        final = target.converted_sha256 if target.conversion else target.sha256
        path = store.layout.blob(final) if final is not None else blobs
        found = peek(store.layout.part(target.sha256))
        arrived = found[1] if found is not None else 0
    return Preview(
        name=target.name,
        source=target.source,
        url=url,
        size=target.size or target.approximate_size,
        exact=target.size is not None,
        sha256=target.sha256,
        licence=target.licence,
        arrived=arrived,
        path=path,
        present=present,
    )
