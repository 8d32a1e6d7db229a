"""The scaling model by tables, and against jobs shared among nodes of a fixed service time."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr import __version__
from llamafile_mgr.bulk import BulkJob, TextInput
from llamafile_mgr.bulk.admission import NodeFacts
from llamafile_mgr.bulk.checkpoints import FinishedFragment
from llamafile_mgr.bulk.computing import embed_fragment
from llamafile_mgr.bulk.job import complete_job
from llamafile_mgr.bulk.rates import measure_rates
from llamafile_mgr.bulk.references import Reference
from llamafile_mgr.bulk.scaling import ASSUMPTIONS, HEADERS, ScaleRates, predict, scale_json, scale_rows
from llamafile_mgr.bulk.sharing import Node, SharedWork
from llamafile_mgr.bulk.text_records import Fragment
from llamafile_mgr.cli import run
from llamafile_mgr.errors import UsageError
from tests.bulk.texts import FakeSource
from tests.embedding.stub_pool import WIDTH, vector_of
from tests.support.service import environment, program

FAST = 1e12
NODE = ScaleRates(100.0, FAST, FAST, FAST, 0.0, 100, 32, 4)


@pytest.mark.parametrize(
    ("rates", "texts", "nodes", "price", "seconds", "cost", "limit"),
    [
        (NODE, 1000, 1, None, 10.0, None, "nodes"),
        (NODE, 1000, 2, 3600.0, 5.0, 10.0, "nodes"),
        (NODE, 1000, 4, 3600.0, 3.0, 12.0, "nodes"),  # ten fragments: two nodes have three
        (NODE, 1000, 100, None, 1.0, None, "nodes"),  # no more nodes than fragments can work
        (NODE, 50, 4, None, 0.5, None, "nodes"),
        (replace(NODE, start_seconds=7.0), 1000, 1, 3600.0, 17.0, 17.0, "nodes"),
        (replace(NODE, read=50.0), 1000, 1, None, 20.0, None, "reading"),
        (replace(NODE, keep=200.0), 1000, 10, None, 5.0, None, "keeping"),
        (replace(NODE, write=500.0), 1000, 2, None, 7.0, None, "nodes"),
    ],
)
def test_predictions(
    rates: ScaleRates, texts: int, nodes: int, price: float | None, seconds: float, cost: float, limit: str
) -> None:
    found = predict(rates, texts, nodes, price)
    assert found.seconds == pytest.approx(seconds)
    assert found.rate == pytest.approx(texts / seconds)
    assert found.limit == limit
    assert found.cost == (None if price is None else pytest.approx(cost))


@given(
    st.floats(0.1, 1e5), st.floats(1, 1e7), st.integers(1, 10**8), st.integers(1, 200), st.integers(1, 10**5)
)
def test_more_nodes_are_never_slower_nor_cheaper_than_free(
    node: float, disk: float, texts: int, nodes: int, fragment: int
) -> None:
    rates = ScaleRates(node, disk, disk, disk, 3.0, fragment, 32, 4)
    one, more = predict(rates, texts, nodes, 1.0), predict(rates, texts, nodes + 1, 1.0)
    assert more.seconds <= one.seconds * (1 + 1e-9)
    assert 0 < one.busy <= 1
    assert one.rate <= nodes * node * (1 + 1e-9)


def test_what_makes_no_sense() -> None:
    for texts, nodes in ((0, 1), (1, 0)):
        with pytest.raises(UsageError):
            predict(NODE, texts, nodes)
    with pytest.raises(UsageError):
        replace(NODE, node=0.0)
    with pytest.raises(UsageError):
        replace(NODE, fragment=0)


def test_what_is_shown() -> None:
    predictions = [predict(NODE, 360_000, 1, 2.0), predict(NODE, 360_000, 2)]
    rows = scale_rows(predictions)
    assert rows[0] == ("1", "100.0", "1.00", "2.00", "nodes", "100 %")
    assert rows[1][3] == "-"
    assert len(rows[0]) == len(HEADERS)
    shown = json.loads(json.dumps(scale_json("m", NODE, 360_000, predictions)))
    assert shown["predictions"][0]["cost"] == 2.0
    assert shown["assumptions"] == list(ASSUMPTIONS)


TEXTS = tuple(f"text {n}" for n in range(320))
TEXT_SECONDS = 0.004


@dataclass
class FixedNode:
    """Embeds one text after the other, each in the same time."""

    name: str

    def __post_init__(self) -> None:
        self._gate = asyncio.Lock()

    async def start(self, texts: Sequence[str]) -> NodeFacts:
        return NodeFacts(__version__, "fake", "0" * 16, WIDTH, np.stack([vector_of(text) for text in texts]))

    async def embed(self, fragment: Fragment) -> FinishedFragment:
        async with self._gate:
            ends = time.monotonic() + TEXT_SECONDS * len(fragment.records)
            part = await embed_fragment(fragment, FakeSource(), 8, asyncio.Semaphore(1))
            await asyncio.sleep(max(0.0, ends - time.monotonic()))
            return part

    async def stop(self) -> None:
        """Has nothing to end."""


class Finder:
    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes

    async def find(self) -> list[Node]:
        found, self._nodes = self._nodes, []
        return found


@pytest.mark.parametrize("nodes", [1, 2, 4])
async def test_a_job_takes_no_less_than_is_predicted(tmp_path: Path, nodes: int) -> None:
    """How much longer it takes is for scripts/bench-ray to say: a busy machine is slow for its reasons."""
    job = BulkJob(TextInput(texts=TEXTS), tmp_path / "out.npy", batch=8, concurrency=1, fragment=16)
    finder = Finder([FixedNode(f"n{number}") for number in range(nodes)])
    async with SharedWork(finder, None, Reference(), 2, lambda _: None) as work:
        await work.first()
        began = time.monotonic()
        await complete_job(job, work)
        took = time.monotonic() - began
    rates = replace(NODE, node=1 / TEXT_SECONDS, fragment=16)
    assert took >= 0.95 * predict(rates, len(TEXTS), nodes).seconds


async def test_rates_are_measured() -> None:
    sizes = BulkJob(TextInput(), batch=4, concurrency=2, fragment=8)
    rates = await measure_rates(FakeSource(), TEXTS, sizes, seconds=0.05, start_seconds=1.5)
    assert min(rates.node, rates.read, rates.keep, rates.write) > 0
    assert (rates.start_seconds, rates.fragment, rates.batch, rates.concurrency) == (1.5, 8, 4, 2)


@pytest.mark.timeout(150)
def test_the_command(model_home: Path) -> None:
    words = [
        "bench",
        "all-minilm-l6-v2",
        "--scale",
        "--seconds",
        "0.5",
        "--texts",
        "100000",
        "--nodes",
        "1,4",
    ]
    result = subprocess.run(
        program(*words, "--price-per-hour", "0.5", "--json"),
        env=environment(model_home),
        capture_output=True,
        text=True,
        timeout=140,
    )
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    one, four = said["predictions"]
    assert 3.5 < one["seconds"] / four["seconds"] <= 4
    assert one["texts_per_second"] <= said["measured"]["node"]
    assert four["cost"] == pytest.approx(one["cost"], rel=0.1)


def test_what_scale_does_not_go_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "m", "--scale", "--url", "http://127.0.0.1:1"]) == 2
    assert "--scale" in capsys.readouterr().err
