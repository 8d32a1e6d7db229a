"""The client x engine matrix, from the reports of a run; they may come from several processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["CELL", "print_matrix"]

#: The property in which a test notes [client, engine, whether it worked].
CELL = "client x engine"


def print_matrix(reporter: pytest.TerminalReporter) -> None:
    """Print which client worked with which engine, where clients took part."""
    found = {(client, engine): good for client, engine, good in _read_cells(reporter)}
    if not found:
        return
    engines = sorted({engine for _, engine in found})
    reporter.section("clients x engines")
    reporter.line(f"{'':34}" + "".join(f"{engine:>14}" for engine in engines))
    for client in dict.fromkeys(client for client, _ in found):
        cells = [found.get((client, engine)) for engine in engines]
        words = ["ok" if cell else "-" if cell is None else "RED" for cell in cells]
        reporter.line(f"{client:34}" + "".join(f"{word:>14}" for word in words))


def _read_cells(reporter: pytest.TerminalReporter) -> Iterable[Any]:
    for reports in reporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "call":
                yield from (value for name, value in report.user_properties if name == CELL)
