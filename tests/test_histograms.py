"""Buckets, sums and the quantiles that they can tell."""

from __future__ import annotations

from llamafile_mgr.histograms import Histogram


def test_values_are_counted_below_their_bounds() -> None:
    histogram = Histogram()
    histogram.add(0.001)
    histogram.add(0.0011, times=3)
    histogram.add(1000.0)
    seen = dict(histogram.cumulative())
    assert (seen[0.001], seen[0.0025], seen[300.0], seen[float("inf")]) == (1, 4, 4, 5)
    assert histogram.total == 0.001 + 0.0011 * 3 + 1000.0


def test_quantiles_are_upper_bounds_and_none_without_values() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) is None
    histogram.add(0.3, times=9)
    histogram.add(40.0)
    assert (histogram.quantile(0.5), histogram.quantile(0.95)) == (0.5, 60.0)
