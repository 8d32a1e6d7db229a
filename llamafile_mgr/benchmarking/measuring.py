"""Throughput and latency over batch x concurrency, in interleaved rounds.

In every round every target gets every cell once, and the order moves on by one from round to round, so that a
noisy machine is noisy for all of them. Within a round all begin with the same text.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from llamafile_mgr.tasks import run_all


@dataclass(frozen=True, slots=True)
class Cell:
    """``batch``: texts of a request. ``concurrency``: requests under way at once."""

    batch: int
    concurrency: int


class BenchTarget(Protocol):
    """Something that embeds."""

    @property
    def name(self) -> str:
        """Return what tables and charts call it."""

    async def embed(self, texts: Sequence[str]) -> None:
        """Embed these texts. Raises Error."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One cell of one target in one round: texts a second, and the seconds of each request."""

    texts_per_second: float
    latencies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CellResult:
    """All rounds of one cell of one target. Seconds; ``rate`` is the median of the rounds."""

    target: str
    cell: Cell
    rounds: tuple[Measurement, ...]

    @property
    def rate(self) -> float:
        """Return texts a second."""
        return statistics.median(each.texts_per_second for each in self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """Return the slowest and the fastest round, in texts a second."""
        rates = [each.texts_per_second for each in self.rounds]
        return min(rates), max(rates)

    def latency(self, share: float) -> float:
        """Return the seconds within which ``share`` of the requests of all rounds were answered."""
        return percentile([seconds for each in self.rounds for seconds in each.latencies], share)

    @property
    def requests(self) -> int:
        """Return how many requests were measured."""
        return sum(len(each.latencies) for each in self.rounds)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = max(1, -(-int(share * 1000) * len(ordered) // 1000))
    return ordered[rank - 1]


Observe = Callable[[str, Cell, int], None]


async def measure(
    targets: Sequence[BenchTarget],
    cells: Sequence[Cell],
    texts: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    observe: Observe = lambda target, cell, number: None,
) -> list[CellResult]:
    """Return the results by target, then in the order of ``cells``.

    ``seconds``: for so long each measurement begins requests; those under way are awaited. ``observe`` is
    told what is measured next, in which round, from 1.

    Raises:
        Error: a target failed.
    """
    for target in targets:
        await target.embed(texts[:1])
        await _measure_once(target, Cell(4, 2), itertools.cycle(texts), 0.2)
    runs: list[tuple[BenchTarget, Cell, list[Measurement]]]
    runs = [(target, cell, []) for target in targets for cell in cells]
    for number in range(rounds):
        begin = number * len(texts) // rounds
        for target, cell, measured in runs[number % len(runs) :] + runs[: number % len(runs)]:
            observe(target.name, cell, number + 1)
            stream = itertools.cycle([*texts[begin:], *texts[:begin]])
            measured.append(await _measure_once(target, cell, stream, seconds))
    return [CellResult(target.name, cell, tuple(measured)) for target, cell, measured in runs]


async def _measure_once(target: BenchTarget, cell: Cell, texts: Iterator[str], seconds: float) -> Measurement:
    latencies: list[float] = []
    began = time.perf_counter()

    async def client() -> None:
        while not latencies or time.perf_counter() - began < seconds:
            batch = list(itertools.islice(texts, cell.batch))
            sent = time.perf_counter()
            await target.embed(batch)
            latencies.append(time.perf_counter() - sent)

    await run_all(client() for _ in range(cell.concurrency))
    wall = time.perf_counter() - began
    return Measurement(len(latencies) * cell.batch / wall, tuple(latencies))
