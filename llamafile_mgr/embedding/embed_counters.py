"""Plain counters of what one embedder did; the proxy prints them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llamafile_mgr.histograms import Histogram, HistogramSnapshot
from llamafile_mgr.supervisor.calls import Priority

__all__ = ["Counters", "EmbedderStats"]


@dataclass(frozen=True, slots=True)
class EmbedderStats:
    """What an embedder did since it was made.

    ``texts``: asked for. ``tokens``: of them, counted or shared out. ``batches``: sent to engines, repeats
    included. ``truncated``: texts that were cut, by how. ``failed``: texts without a vector.
    ``queue_depth``: texts that wait now, by priority class. Seconds: ``tokenize`` per counted text,
    ``waiting`` per text by priority class, until its batch was sent, ``engine`` per batch, ``total`` per
    call.
    """

    calls: int
    texts: int
    tokens: int
    batches: int
    cache_hits: int
    cache_misses: int
    deduplicated: int
    failed: int
    truncated: Mapping[str, int]
    queue_depth: Mapping[str, int]
    tokenize_seconds: HistogramSnapshot
    waiting_seconds: Mapping[str, HistogramSnapshot]
    engine_seconds: HistogramSnapshot
    total_seconds: HistogramSnapshot


@dataclass(slots=True)
class Counters:
    """The running counts behind ``EmbedderStats``."""

    calls: int = 0
    texts: int = 0
    tokens: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    deduplicated: int = 0
    failed: int = 0
    truncated: dict[str, int] = field(default_factory=dict)
    tokenize: Histogram = field(default_factory=Histogram)
    waiting: dict[Priority, Histogram] = field(
        default_factory=lambda: {Priority.QUERY: Histogram(), Priority.BULK: Histogram()}
    )
    engine: Histogram = field(default_factory=Histogram)
    total: Histogram = field(default_factory=Histogram)

    def snapshot(self, batches: int, queue_depth: Mapping[str, int]) -> EmbedderStats:
        """Return the counts with what others count."""
        return EmbedderStats(
            calls=self.calls,
            texts=self.texts,
            tokens=self.tokens,
            batches=batches,
            cache_hits=self.cache_hits,
            cache_misses=self.cache_misses,
            deduplicated=self.deduplicated,
            failed=self.failed,
            truncated=dict(self.truncated),
            queue_depth=dict(queue_depth),
            tokenize_seconds=self.tokenize.snapshot(),
            waiting_seconds={priority.value: waits.snapshot() for priority, waits in self.waiting.items()},
            engine_seconds=self.engine.snapshot(),
            total_seconds=self.total.snapshot(),
        )
