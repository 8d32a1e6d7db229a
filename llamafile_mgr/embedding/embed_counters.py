"""Plain counters of what one embedder did; the proxy prints them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llamafile_mgr.histograms import Histogram
from llamafile_mgr.supervisor.calls import Priority


@dataclass(slots=True)
class EmbedderStats:
    """What an embedder did since it was made.

    ``texts``: asked for. ``tokens``: of them, counted or shared out. ``batches``: sent to engines, repeats
    included. ``truncated``: texts that were cut, by how. ``failed``: texts without a vector.
    ``queue_depth``: texts that wait now, by priority class. Seconds: ``tokenize`` per counted text,
    ``waiting`` per text by priority class, until its batch was sent, ``engine`` per batch, ``total`` per
    call.
    """

    calls: int = 0
    texts: int = 0
    tokens: int = 0
    batches: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    deduplicated: int = 0
    failed: int = 0
    truncated: dict[str, int] = field(default_factory=dict)
    queue_depth: Mapping[str, int] = field(default_factory=dict)
    tokenize_seconds: Histogram = field(default_factory=Histogram)
    waiting_seconds: dict[Priority, Histogram] = field(
        default_factory=lambda: {Priority.QUERY: Histogram(), Priority.BULK: Histogram()}
    )
    engine_seconds: Histogram = field(default_factory=Histogram)
    total_seconds: Histogram = field(default_factory=Histogram)
