"""Plain counters of what one embedder did; the proxy prints them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from llamafile_mgr.supervisor.calls import Priority

__all__ = ["SECONDS", "Counters", "EmbedderStats", "Histogram", "HistogramSnapshot"]

#: Upper bounds of the buckets, in seconds; a last bucket has no bound.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """``counts``: one more than ``bounds``, not cumulative; ``total``: the sum of all values."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """Return how many values there were."""
        return sum(self.counts)


class Histogram:
    """Counts values by bucket."""

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value so many times; one that equals a bound belongs below it."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def snapshot(self) -> HistogramSnapshot:
        """Return the counts so far."""
        return HistogramSnapshot(self._bounds, tuple(self._counts), self._total)


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
