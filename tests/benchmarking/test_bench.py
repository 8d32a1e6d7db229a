"""What ``bench`` measures, tells and draws."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.benchmarking.charts import chart_lines, draw_svg, nice_top, write_chart
from llamafile_mgr.benchmarking.measuring import Cell, CellResult, Measurement, measure, percentile
from llamafile_mgr.benchmarking.reports import HEADERS, SCHEMA, BenchReport, report_json, table_rows
from llamafile_mgr.benchmarking.texts import LONGEST, SHORTEST, read_docstrings
from llamafile_mgr.cli import run
from llamafile_mgr.errors import EngineError, UsageError
from tests.support.service import Service, run_program

MODEL = "all-minilm-l6-v2"


@dataclass
class FakeTarget:
    """Answers at once; notes the sizes of requests and how many were under way."""

    name: str
    sizes: list[int] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    most: int = 0
    now: int = 0

    async def embed(self, texts: Sequence[str]) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.sizes.append(len(texts))
        self.first.append(texts[0])
        await asyncio.sleep(0.001)
        self.now -= 1


def result(target: str, batch: int, concurrency: int, *rates: float) -> CellResult:
    rounds = tuple(Measurement(rate, (0.1, 0.2, 0.4)) for rate in rates)
    return CellResult(target, Cell(batch, concurrency), rounds)


REPORT = BenchReport(
    'm<&"\x00',
    3,
    2.0,
    100,
    tuple(
        result(target, batch, concurrency, 10.0 * batch, 30.0, 20.0 * concurrency)
        for target in ("serve", "engine")
        for batch in (1, 8)
        for concurrency in (1, 16)
    ),
)


async def test_rounds_are_interleaved_and_move_on() -> None:
    texts = [f"text {n}" for n in range(100)]
    order: list[tuple[str, Cell, int]] = []
    targets = [FakeTarget("a"), FakeTarget("b")]
    cells = [Cell(1, 1), Cell(3, 5)]
    results = await measure(
        targets, cells, texts, rounds=3, seconds=0.01, observe=lambda *seen: order.append(seen)
    )
    assert [(each.target, each.cell) for each in results] == [(t.name, c) for t in targets for c in cells]
    first = [(t.name, c, 1) for t in targets for c in cells]
    assert order[:4] == first
    assert order[4:8] == [(*each[:2], 2) for each in (*first[1:], first[0])]
    assert all(len(each.rounds) == 3 and each.rate > 0 for each in results)
    assert results[1].requests >= 15  # five clients, three rounds, at least one request each
    assert targets[0].most == 5
    assert {1, 3} <= set(targets[0].sizes)
    assert {"text 0", "text 33", "text 66"} <= set(targets[0].first)


async def test_a_target_that_fails_ends_the_measurement() -> None:
    class Failing(FakeTarget):
        async def embed(self, texts: Sequence[str]) -> None:
            if len(self.sizes) > 5:
                raise EngineError("gone")
            await super().embed(texts)

    with pytest.raises(EngineError):
        await measure([Failing("x")], [Cell(1, 3)], ["a", "b"], rounds=2, seconds=0.05)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 1.0]))
def test_percentiles_are_values_that_were_measured(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


def test_reports() -> None:
    body = json.loads(json.dumps(report_json(REPORT)))
    assert (body["schema"], body["model"], len(body["results"])) == (SCHEMA, REPORT.model, 8)
    assert body["results"][0] == {
        "target": "serve",
        "batch": 1,
        "concurrency": 1,
        "texts_per_second": 20.0,
        "slowest": 10.0,
        "fastest": 30.0,
        "p50_ms": 200.0,
        "p95_ms": 400.0,
        "requests": 9,
    }
    rows = table_rows(REPORT.results)
    assert all(len(row) == len(HEADERS) for row in rows)
    assert rows[0] == ("serve", "1", "1", "20.0", "10.0", "30.0", "200.0", "400.0", "9")


def test_an_svg_is_well_formed_and_has_a_line_per_target_and_batch() -> None:
    root = ElementTree.fromstring(draw_svg(REPORT))
    space = "{http://www.w3.org/2000/svg}"
    lines = root.findall(f"{space}polyline")
    assert len(lines) == 8  # four in each panel
    assert sum("stroke-dasharray" in line.attrib for line in lines) == 4
    texts = [text.text for text in root.iter(f"{space}text")]
    assert 'm<&"?: median of 3 rounds of 2 s' in texts
    assert "engine, batch 8" in texts
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= float(root.attrib["width"])
            assert 0 <= y <= float(root.attrib["height"])


def test_lines_are_in_order_of_concurrency() -> None:
    results = [result("serve", 1, 8, 5.0), result("serve", 1, 1, 3.0)]
    (line,) = chart_lines(results, lambda each: each.rate)
    assert line.points == ((1, 3.0), (8, 5.0))


@given(st.floats(1e-6, 1e9))
def test_an_axis_holds_what_it_shows(most: float) -> None:
    assert most <= nice_top(most) * (1 + 1e-12) <= 10 * most * (1 + 1e-9)


def test_charts_of_both_kinds(tmp_path: Path) -> None:
    write_chart(REPORT, tmp_path / "c.svg")
    write_chart(REPORT, tmp_path / "c.PNG")
    assert (tmp_path / "c.PNG").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="what to draw"):
        write_chart(REPORT, tmp_path / "c.gif")


def test_texts_are_real_and_always_the_same() -> None:
    texts = read_docstrings(50)
    assert texts == read_docstrings(50)
    assert len(set(texts)) == 50
    assert all(SHORTEST <= len(text) <= LONGEST for text in texts)


@pytest.mark.timeout(120)
def test_the_real_engine_with_and_without_the_proxy(model_home: Path, tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    few = ["--batch", "1,4", "--concurrency", "2", "--rounds", "1", "--seconds", "0.1"]
    measured = run_program(model_home, "bench", MODEL, *few, "--direct", "--chart", str(chart), "--json")
    assert measured.returncode == 0, measured.stderr
    body = json.loads(measured.stdout)
    cells = [(each["target"], each["batch"], each["concurrency"]) for each in body["results"]]
    assert cells == [("serve", 1, 2), ("serve", 4, 2), ("engine", 1, 2), ("engine", 4, 2)]
    assert all(each["texts_per_second"] > 0 and each["p50_ms"] <= each["p95_ms"] for each in body["results"])
    assert chart.read_text().startswith("<svg")
    assert "4 of 4: engine" in measured.stderr
    assert "no serve is running" in run_program(model_home, "status", "--port", "1").stderr


def test_a_running_serve_is_measured(service: Service, model_home: Path) -> None:
    few = ["--batch", "2", "--concurrency", "1", "--rounds", "1", "--seconds", "0.1", "--url", service.url]
    measured = run_program(model_home, "bench", MODEL, *few)
    assert measured.returncode == 0, measured.stderr
    assert HEADERS[3] in measured.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "MODEL"),
        ([MODEL, "--batch", "0"], 2, "list of numbers"),
        ([MODEL, "--concurrency", "1,x"], 2, "list of numbers"),
        ([MODEL, "--chart", "x.gif"], 2, ".svg or .png"),
        ([MODEL, "--url", "https://x"], 2, "http://"),
        (["no-such-model"], 4, "no-such-model"),
    ],
)
def test_mistakes(
    arguments: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path / "home"))
    assert run(["bench", *arguments]) == code
    errors = capsys.readouterr().err
    assert says in errors
    assert "Traceback" not in errors


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--help"]) == 0
    assert "Examples:" in capsys.readouterr().out
