"""How long things took, counted by size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

#: Upper bounds of the buckets, in seconds; a last bucket has none.
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Histogram:
    """Counts seconds by bucket. ``total``: the sum of all values."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Count a value so many times; one that equals a bound belongs below it."""
        self._counts[bisect_left(_BOUNDS, seconds)] += times
        self.total += seconds * times

    @property
    def count(self) -> int:
        """Return how many values there were."""
        return sum(self._counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield each bucket's upper bound, infinity last, and how many values are not above it."""
        return zip((*_BOUNDS, float("inf")), accumulate(self._counts), strict=True)

    def quantile(self, share: float) -> float | None:
        """Return the upper bound of the bucket in which ``share`` of the values end; None without values."""
        wanted = share * self.count
        return next((bound for bound, seen in self.cumulative() if seen >= wanted), None) if wanted else None
