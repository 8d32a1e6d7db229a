"""A benchmark as a picture: throughput and latency over concurrency, a line per target and batch.

SVG is written here, without a drawing library; PNG needs matplotlib.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafile_mgr.benchmarking.measuring import CellResult
from llamafile_mgr.benchmarking.reports import BenchReport
from llamafile_mgr.errors import StoreError, UsageError

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _GAP, _LEGEND = 420, 300, 60, 60, 50, 70, 170
_TICKS = 5


@dataclass(frozen=True, slots=True)
class ChartLine:
    """One line: (concurrency, value) in ascending order. ``dashed``: of engines without a proxy.

    ``colour``: that of its batch, so that both targets of a batch share it.
    """

    label: str
    colour: str
    dashed: bool
    points: tuple[tuple[int, float], ...]

    @property
    def stroke(self) -> str:
        """Return how SVG draws it."""
        dash = ' stroke-dasharray="5 4"' if self.dashed else ""
        return f'stroke="{self.colour}" stroke-width="2"{dash}'


_PANELS: tuple[tuple[str, Callable[[CellResult], float]], ...] = (
    ("texts per second", lambda result: result.rate),
    ("p95 of a request, milliseconds", lambda result: 1000 * result.latency(0.95)),
)


def chart_lines(results: Sequence[CellResult], value: Callable[[CellResult], float]) -> list[ChartLine]:
    """Return the lines of one panel."""
    keys = dict.fromkeys((result.target, result.cell.batch) for result in results)
    batches = list(dict.fromkeys(batch for _, batch in keys))
    return [
        ChartLine(
            f"{target}, batch {batch}",
            _COLOURS[batches.index(batch) % len(_COLOURS)],
            target == "engine",
            tuple(
                sorted(
                    (result.cell.concurrency, value(result))
                    for result in results
                    if (result.target, result.cell.batch) == (target, batch)
                )
            ),
        )
        for target, batch in keys
    ]


def check_chart(path: Path) -> None:
    """Refuse a chart that could not be written at the end.

    Raises:
        UsageError: the name ends neither in .svg nor in .png, or nothing draws PNG here.
    """
    suffix = path.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise UsageError(f"the name of {path} does not say what to draw", hint="end it in .svg or .png")
    if suffix == ".png":
        _import_matplotlib()


def write_chart(report: BenchReport, path: Path) -> None:
    """Draw ``report`` to a .svg or .png file.

    Raises:
        UsageError: see ``check_chart``.
        StoreError: the file cannot be written.
    """
    check_chart(path)
    try:
        if path.suffix.lower() == ".svg":
            path.write_text(draw_svg(report), encoding="utf-8")
        else:
            _draw_png(report, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def _title(report: BenchReport) -> str:
    model = "".join(c if c.isprintable() else "?" for c in report.model)
    return f"{model}: median of {report.rounds} rounds of {report.seconds:g} s"


def draw_svg(report: BenchReport) -> str:
    """Return the chart as an SVG document."""
    width = 2 * _WIDTH + 2 * _LEFT + _GAP + _LEGEND
    height = _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(_LEFT, 22, _title(report), "start", size=15),
    ]
    for number, (title, value) in enumerate(_PANELS):
        left = _LEFT + number * (_WIDTH + _GAP)
        parts += _panel(left, title, chart_lines(report.results, value))
    parts += _legend(2 * _WIDTH + _LEFT + _GAP + 20, chart_lines(report.results, _PANELS[0][1]))
    return "\n".join([*parts, "</svg>", ""])


def _panel(left: int, title: str, lines: Sequence[ChartLine]) -> list[str]:
    concurrencies = sorted({x for line in lines for x, _ in line.points})
    top = nice_top(max(y for line in lines for _, y in line.points))
    step = _WIDTH / max(1, len(concurrencies))

    def place(x: int, y: float) -> tuple[float, float]:
        return left + step * (concurrencies.index(x) + 0.5), _TOP + _HEIGHT * (1 - y / top)

    parts = [_text(left, _TOP - 10, title, "start")]
    for tick in range(_TICKS + 1):
        y = _TOP + _HEIGHT * (1 - tick / _TICKS)
        parts.append(f'<path d="M{left} {y:.1f}h{_WIDTH}" stroke="#ddd"/>')
        parts.append(_text(left - 6, y + 4, f"{top * tick / _TICKS:g}", "end"))
    parts += [_text(place(x, 0)[0], _TOP + _HEIGHT + 18, str(x), "middle") for x in concurrencies]
    parts.append(_text(left + _WIDTH / 2, _TOP + _HEIGHT + 38, "requests at once", "middle"))
    for line in lines:
        placed = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" {line.stroke}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in placed]
    return parts


def _legend(left: int, lines: Sequence[ChartLine]) -> Iterator[str]:
    for y, line in zip(itertools.count(_TOP + 10, 20), lines, strict=False):
        yield f'<path d="M{left} {y}h24" {line.stroke}/>' + _text(left + 30, y + 4, line.label, "start")


def _text(x: float, y: float, text: str, anchor: str, *, size: int = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {place}>{html.escape(text)}</text>"


def nice_top(most: float) -> float:
    """Return where an axis ends: the next of 1, 2, 2.5, 5 times a power of ten from ``most``."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= most)


def _import_matplotlib() -> Any:
    try:
        import matplotlib.figure
    except ImportError as error:
        raise UsageError(
            "nothing here draws PNG", hint="pip install 'llamafile-mgr[chart]', or name an .svg file"
        ) from error
    return matplotlib.figure


def _draw_png(report: BenchReport, path: Path) -> None:
    figure = _import_matplotlib().Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(_title(report))
    for axes, (title, value) in zip(figure.subplots(1, 2), _PANELS, strict=True):
        lines = chart_lines(report.results, value)
        concurrencies = sorted({x for line in lines for x, _ in line.points})
        for line in lines:
            axes.plot(
                [concurrencies.index(x) for x, _ in line.points],
                [y for _, y in line.points],
                marker="o",
                linestyle="--" if line.dashed else "-",
                color=line.colour,
                label=line.label,
            )
        axes.set_xticks(range(len(concurrencies)), [str(x) for x in concurrencies])
        axes.set_xlabel("requests at once")
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, format="png", dpi=120)
