"""The post's own figures, from ``leaderboard.toml``: its tables as printed, and as scores to rank."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamafile_mgr.errors import InternalError
from llamafile_mgr.planner.leaderboard import Scores

#: The categories of data sets that the post calls relevant for RAG.
TASKS = ("clustering", "reranking", "retrieval", "sts")
PUBLISHED_NOTE = (
    "The post ranked every model of the MTEB leaderboard on each of 40 data sets. Those scores are not in "
    "it, so its top-10 MTR is shown as published and cannot be recomputed from category averages alone."
)


@dataclass(frozen=True, slots=True)
class CategoryScores:
    """Averages of one model over the data sets of each category, and over all 40."""

    name: str
    rag_average: float
    clustering: float
    reranking: float
    retrieval: float
    sts: float

    def of(self, tasks: Sequence[str]) -> tuple[float, ...]:
        """Return the averages over these categories."""
        return tuple(getattr(self, task) for task in tasks)


@dataclass(frozen=True, slots=True)
class TopModel(CategoryScores):
    """One row of the post's top-10 table: the same with the mean task rank."""

    mtr: float


@dataclass(frozen=True, slots=True)
class Averages:
    """One model's places and averages over all of MTEB and over the 40 data sets."""

    name: str
    rank: int
    rag_rank: int
    average: float
    rag_average: float


@dataclass(frozen=True, slots=True)
class PublishedScores:
    """The post's tables. ``tasks``: category -> its data sets."""

    tasks: Mapping[str, tuple[str, ...]]
    top: tuple[TopModel, ...]
    categories: tuple[CategoryScores, ...]
    averages: tuple[Averages, ...]

    def mtr_of(self, title: str) -> float | None:
        """Return the published mean task rank of a model by its name, in any case."""
        return next((m.mtr for m in self.top if m.name.lower() == title.lower()), None)

    def models(self) -> tuple[CategoryScores, ...]:
        """Return every model of which the post prints category averages, each once."""
        return tuple({model.name: model for model in (*self.top, *self.categories)}.values())


@functools.cache
def load_published() -> PublishedScores:
    """Return the post's figures, read once per process.

    Raises:
        InternalError: the package's own file is damaged.
    """
    text = (importlib.resources.files(__package__) / "leaderboard.toml").read_text(encoding="utf-8")
    try:
        return parse_published(tomllib.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        raise InternalError(
            f"leaderboard.toml is damaged: {error}", hint="reinstall llamafile-mgr"
        ) from error


def parse_published(table: Mapping[str, typing.Any]) -> PublishedScores:
    """Return the figures of a table in the form of ``leaderboard.toml``."""
    return PublishedScores(
        tasks=types.MappingProxyType({task: tuple(table["tasks"][task]) for task in TASKS}),
        top=tuple(TopModel(**entry) for entry in table["top"]),
        categories=tuple(CategoryScores(**entry) for entry in table["categories"]),
        averages=tuple(Averages(**entry) for entry in table["averages"]),
    )


def published_scores(published: PublishedScores, tasks: Sequence[str] = TASKS) -> Scores:
    """Return the post's category averages as a table; each column weighs as many data sets as it averages."""
    models = published.models()
    return Scores(
        models=tuple(model.name for model in models),
        datasets=tuple(tasks),
        values=tuple(model.of(tasks) for model in models),
        weights=tuple(len(published.tasks[task]) for task in tasks),
    )
