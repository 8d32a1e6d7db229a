"""What a benchmark found, as JSON and as rows of a table. Pure.

The JSON, schema ``llamafile-mgr/bench/1``:

* ``schema``: that name; another number after it when a field changes its meaning
* ``model``, ``version`` (of llamafile-mgr), ``rounds``, ``seconds`` (per measurement), ``texts``
  (different ones)
* ``results``: a list with one object for every target and cell:
  ``target`` (``serve`` or ``engine``), ``batch`` (texts of a request), ``concurrency`` (requests at once),
  ``texts_per_second`` (median of the rounds), ``slowest`` and ``fastest`` (rounds, texts a second),
  ``p50_ms`` and ``p95_ms`` (milliseconds of a request over all rounds), ``requests`` (measured)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.benchmarking.measuring import CellResult

SCHEMA = "llamafile-mgr/bench/1"
HEADERS = ("TARGET", "BATCH", "CONCURRENCY", "TEXTS/S", "SLOWEST", "FASTEST", "P50 MS", "P95 MS", "REQUESTS")


@dataclass(frozen=True, slots=True)
class BenchReport:
    """A benchmark of one model. ``seconds``: of each measurement. ``texts``: how many different ones."""

    model: str
    rounds: int
    seconds: float
    texts: int
    results: tuple[CellResult, ...]


def report_json(report: BenchReport) -> dict[str, Any]:
    """Return the report in the schema above."""
    return {
        "schema": SCHEMA,
        "model": report.model,
        "version": __version__,
        "rounds": report.rounds,
        "seconds": report.seconds,
        "texts": report.texts,
        "results": [_result_json(each) for each in report.results],
    }


def _result_json(result: CellResult) -> dict[str, Any]:
    slowest, fastest = result.spread
    return {
        "target": result.target,
        "batch": result.cell.batch,
        "concurrency": result.cell.concurrency,
        "texts_per_second": round(result.rate, 2),
        "slowest": round(slowest, 2),
        "fastest": round(fastest, 2),
        "p50_ms": round(1000 * result.latency(0.5), 2),
        "p95_ms": round(1000 * result.latency(0.95), 2),
        "requests": result.requests,
    }


def table_rows(results: Sequence[CellResult]) -> list[tuple[str, ...]]:
    """Return a row per result, under ``HEADERS``."""
    return [
        (
            result.target,
            str(result.cell.batch),
            str(result.cell.concurrency),
            f"{result.rate:.1f}",
            *(f"{rate:.1f}" for rate in result.spread),
            *(f"{1000 * result.latency(share):.1f}" for share in (0.5, 0.95)),
            str(result.requests),
        )
        for result in results
    ]
