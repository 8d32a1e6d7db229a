"""Bytes arrive: sources, parallel ranges, checks, and the way into the store."""

from __future__ import annotations

from llamafile_mgr.downloader.events import Event, Progress, event_json
from llamafile_mgr.downloader.preview import Preview, preview
from llamafile_mgr.downloader.pulling import PullOptions, pull
from llamafile_mgr.downloader.repairing import repair
from llamafile_mgr.downloader.sources import Source, Target, parse_source, target_of

__all__ = [
    "Event",
    "Preview",
    "Progress",
    "PullOptions",
    "Source",
    "Target",
    "event_json",
    "parse_source",
    "preview",
    "pull",
    "repair",
    "target_of",
]
