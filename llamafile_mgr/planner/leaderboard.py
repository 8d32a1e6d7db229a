"""The leaderboard: mean task rank, and the plain mean, over scores per data set.

Mean task rank (MTR) is the first step of the Friedman test as Demsar describes it (Statistical Comparisons
of Classifiers over Multiple Data Sets, JMLR 7, 2006): rank the models on each data set, ties sharing the mean
of their places, then average the ranks. Scores of unlike scales need not be comparable then.

Everything here is a pure function over values; ``published.py`` has the post's figures.
"""

from __future__ import annotations

import math
import operator
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from llamafile_mgr.errors import UsageError

#: Scores nearer to each other than this tie; the post prints two decimals.
_TIE = 1e-9


class By(StrEnum):
    """What orders the table."""

    MTR = "mtr"
    MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of models on data sets: a row per model, a column per data set, ``None`` where missing.

    ``weights``: how many data sets a column stands for; 1 for a data set, more for a category's average.
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    weights: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.values}
        if len(self.values) != len(self.models) or widths - {len(self.datasets)}:
            raise ValueError("scores: the table is not rectangular")
        if self.weights and len(self.weights) != len(self.datasets):
            raise ValueError("scores: one weight per data set")

    def select(self, datasets: Sequence[str]) -> Scores:
        """Return the table with these columns only, in this order."""
        columns = [self.datasets.index(name) for name in datasets]
        return Scores(
            models=self.models,
            datasets=tuple(datasets),
            values=tuple(tuple(row[i] for i in columns) for row in self.values),
            weights=tuple(self.weights[i] for i in columns) if self.weights else (),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One model's place. ``rank`` shares places between ties; ``ranks`` are those per data set."""

    rank: float
    model: str
    mtr: float
    mean: float
    scores: tuple[float, ...]
    ranks: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The ordered table. ``incomplete``: model -> data sets that it has no score for; it is not ranked."""

    by: By
    datasets: tuple[str, ...]
    rows: tuple[Row, ...]
    incomplete: Mapping[str, tuple[str, ...]]


def rank(values: Sequence[float], *, highest_first: bool = True) -> tuple[float, ...]:
    """Return the place of each value, 1 for the best; equal values share the mean of their places."""
    order = sorted(range(len(values)), key=lambda i: values[i], reverse=highest_first)
    places = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and abs(values[order[end + 1]] - values[order[start]]) <= _TIE:
            end += 1
        for position in range(start, end + 1):
            places[order[position]] = (start + end) / 2 + 1
        start = end + 1
    return tuple(places)


def rank_models(scores: Scores, by: By = By.MTR) -> Leaderboard:
    """Return the models in order of mean task rank (lowest first) or of mean score (highest first).

    A model without a score on some data set is left out of all ranks and named: ranks over other data sets
    do not compare, and its absence would lift the rest.

    Raises:
        UsageError: no data set, or no model with all scores.
    """
    if not scores.datasets:
        raise UsageError("a leaderboard needs at least one data set")
    incomplete: dict[str, tuple[str, ...]] = {}
    complete: list[tuple[str, tuple[float, ...]]] = []
    for model, row in zip(scores.models, scores.values, strict=True):
        missing = tuple(d for d, v in zip(scores.datasets, row, strict=True) if v is None)
        if missing:
            incomplete[model] = missing
        else:
            complete.append((model, tuple(v for v in row if v is not None)))
    if not complete:
        raise UsageError(
            "no model has a score on every data set, so nothing can be ranked", hint=_sparsest(scores)
        )
    columns = [rank(column) for column in zip(*(row for _, row in complete), strict=True)]
    ranks = list(zip(*columns, strict=True))
    weights = scores.weights or (1,) * len(scores.datasets)
    mtrs = [math.fsum(r) / len(r) for r in ranks]
    means = [math.fsum(map(operator.mul, row, weights)) / sum(weights) for _, row in complete]
    places = rank(mtrs, highest_first=False) if by is By.MTR else rank(means)
    rows = [
        Row(places[i], model, mtrs[i], means[i], row, tuple(ranks[i]))
        for i, (model, row) in enumerate(complete)
    ]
    rows.sort(key=lambda row: (row.rank, -row.mean, row.model))
    return Leaderboard(by, scores.datasets, tuple(rows), types.MappingProxyType(incomplete))


def _sparsest(scores: Scores) -> str:
    gaps = [(sum(row[i] is None for row in scores.values), name) for i, name in enumerate(scores.datasets)]
    count, name = max(gaps)
    return f"leave out data sets that few models have: {name} lacks {count} of {len(scores.models)}"
