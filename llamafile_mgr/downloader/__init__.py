"""Bytes arrive: sources, parallel ranges, checks, and the way into the store."""

from __future__ import annotations

from llamafile_mgr.downloader.hub_sources import PullTarget, Source, parse_source, target_of
from llamafile_mgr.downloader.preview import Preview, preview
from llamafile_mgr.downloader.pull_events import Event, Progress, event_json
from llamafile_mgr.downloader.pulling import PullOptions, pull
from llamafile_mgr.downloader.repairing import repair

__all__ = [
    "Event",
    "Preview",
    "Progress",
    "PullOptions",
    "PullTarget",
    "Source",
    "event_json",
    "parse_source",
    "preview",
    "pull",
    "repair",
    "target_of",
]
