"""Bytes arrive: sources, parallel ranges, checks, and the way into the store."""

from __future__ import annotations

from llamafile_mgr.downloader.hub_sources import PullTarget, target_of
from llamafile_mgr.downloader.preview import Preview, preview
from llamafile_mgr.downloader.pulling import PullOptions, pull
from llamafile_mgr.downloader.repairing import repair

__all__ = [
    "Preview",
    "PullOptions",
    "PullTarget",
    "preview",
    "pull",
    "repair",
    "target_of",
]
