"""Nodes that come, are lost, leave and disagree: no fragment is lost, doubled or computed by a wrong node."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafile_mgr import __version__
from llamafile_mgr.bulk import BulkJob, TextInput
from llamafile_mgr.bulk.admission import NodeFacts
from llamafile_mgr.bulk.checkpoints import FinishedFragment, Parts, parts_folder
from llamafile_mgr.bulk.computing import embed_fragment
from llamafile_mgr.bulk.job import JobReport, complete_job, run_job
from llamafile_mgr.bulk.references import Reference, load_reference, make_reference
from llamafile_mgr.bulk.sharing import Node, SharedWork
from llamafile_mgr.bulk.text_records import Fragment
from llamafile_mgr.catalog import load_catalog
from llamafile_mgr.errors import (
    CheckpointError,
    EngineError,
    EngineLostError,
    NotReadyError,
    VectorSpaceError,
)
from tests.bulk.texts import FAILING, FakeSource
from tests.embedding.stub_pool import WIDTH, vector_of

SPACE = "0" * 16
TEXTS = tuple(f"text {n}" + (FAILING if n % 9 == 4 else "") for n in range(60))


def golden_vectors(texts: Sequence[str]) -> np.ndarray:
    return np.stack([vector_of(text) for text in texts])


#: As the catalog has them: of texts of its own.
PINNED = Reference(("one", "two", "three"), golden_vectors(("one", "two", "three")), pinned=True)


@dataclass
class FakeNode:
    """A node without a machine. ``lost_at``: the calls of ``embed``, from 1, at which it is lost.

    ``refuses_at``: the call at which it fails for good. ``turned``: its vectors are others.
    """

    name: str
    lost_at: tuple[int, ...] = ()
    refuses_at: int | None = None
    vector_space: str = SPACE
    version: str = __version__
    turned: bool = False
    niceness: int = 0
    starts: int = 0
    stops: int = 0
    calls: int = 0
    done: list[int] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def start(self, texts: Sequence[str]) -> NodeFacts:
        self.starts += 1
        await asyncio.sleep(0)
        probes = golden_vectors(texts)
        return NodeFacts(
            self.version,
            "fake",
            self.vector_space,
            WIDTH,
            probes[::-1].copy() if self.turned else probes,
            niceness=self.niceness,
        )

    async def embed(self, fragment: Fragment) -> FinishedFragment:
        self.calls += 1
        call = self.calls
        part = await embed_fragment(fragment, FakeSource(), 3, asyncio.Semaphore(2))
        if call in self.lost_at:
            raise EngineLostError("its process ended")
        if call == self.refuses_at:
            raise NotReadyError("its engines failed")
        self.done.append(fragment.index)
        self.came.set()
        return part

    async def stop(self) -> None:
        self.stops += 1


@dataclass
class FakeFinder:
    """Finds the nodes of one list after the other, one list a look."""

    lists: list[list[FakeNode]]

    async def find(self) -> Sequence[Node]:
        return self.lists.pop(0) if self.lists else []


def job_for(folder: Path, name: str = "shared.jsonl") -> BulkJob:
    return BulkJob(TextInput(texts=TEXTS), folder / name, batch=3, concurrency=2, fragment=4, overwrite=True)


async def share(
    folder: Path,
    *nodes: FakeNode,
    space: str | None = None,
    reference: Reference | None = None,
    said: list[str] | None = None,
    job: BulkJob | None = None,
) -> JobReport:
    say = said.append if said is not None else lambda _: None
    reference = reference or load_reference(parts_folder(folder / "shared.jsonl")) or Reference()
    async with SharedWork(FakeFinder([list(nodes)]), space, reference, 2, say) as work:
        await work.first()
        return await complete_job(job or job_for(folder), work)


async def check_output(folder: Path) -> None:
    await run_job(job_for(folder, "single.jsonl"), FakeSource())
    assert (folder / "shared.jsonl").read_bytes() == (folder / "single.jsonl").read_bytes()


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            FakeNode,
            st.uuids().map(str),
            lost_at=st.lists(st.integers(1, 12), max_size=2).map(tuple),
            refuses_at=st.none() | st.integers(1, 12),
        ),
        max_size=4,
    )
)
def test_whatever_happens_to_nodes_the_output_is_that_of_one(tmp_path: Path, nodes: list[FakeNode]) -> None:
    steady = FakeNode("steady")
    report = asyncio.run(share(tmp_path, *nodes, steady))
    assert (report.texts, report.failed, report.exact) == (len(TEXTS), 7, True)
    asyncio.run(check_output(tmp_path))
    # What a failing node had finished but not handed over is computed again.
    assert {index for node in (*nodes, steady) for index in node.done} == set(range(15))
    assert all(node.stops == 1 for node in (*nodes, steady))


async def test_a_lost_node_is_started_again_and_at_last_left(tmp_path: Path) -> None:
    said: list[str] = []
    weak, steady = FakeNode("weak", lost_at=(1, 3, 5)), FakeNode("steady")
    await share(tmp_path, weak, steady, said=said)
    assert 1 <= weak.starts <= 3
    assert any("weak: its process ended; it is started again" in line for line in said)
    await check_output(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (FakeNode("wrong", vector_space="1" * 16), "its vector space is 1111111111111111, not 0000"),
        (FakeNode("wrong", turned=True), "its vectors are not those of the job"),
        (FakeNode("wrong", version="0.0.0"), "it runs llamafile-mgr 0.0.0"),
    ],
)
async def test_a_node_that_does_not_fit_leaves_with_a_reason(
    tmp_path: Path, wrong: FakeNode, reason: str
) -> None:
    said: list[str] = []
    await share(tmp_path, FakeNode("right"), wrong, space=SPACE, said=said)
    assert any(line.startswith("wrong leaves the job") and reason in line for line in said)
    assert wrong.calls == 0
    assert wrong.stops == 1
    await check_output(tmp_path)


async def test_without_a_node_left_the_job_names_reasons_and_goes_on_later(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError) as caught:
        await share(tmp_path, FakeNode("a", refuses_at=3), FakeNode("b", refuses_at=4))
    assert "a: its engines failed" in caught.value.describe()
    assert "b: its engines failed" in caught.value.describe()
    kept = len(list(parts_folder(tmp_path / "shared.jsonl").rglob("*.part")))
    assert kept
    later = FakeNode("c")
    report = await share(tmp_path, later, space=SPACE)
    assert report.kept == 4 * kept
    assert len(later.done) == 15 - kept
    await check_output(tmp_path)


async def test_a_job_that_goes_on_keeps_its_golden_vectors(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError):
        await share(tmp_path, FakeNode("a", refuses_at=3))
    with pytest.raises(NotReadyError) as caught:
        await share(tmp_path, FakeNode("turned", turned=True))
    assert "its vectors are not those of the job" in caught.value.describe()
    assert Parts(parts_folder(tmp_path / "shared.jsonl")).read_job() is not None


@pytest.mark.parametrize("first", [True, False])
async def test_not_even_the_first_node_may_give_other_vectors_than_the_catalogs(
    tmp_path: Path, first: bool
) -> None:
    """The wrong one comes first, or when the job goes on after all others were lost."""
    said: list[str] = []
    wrong = FakeNode("wrong", turned=True)
    if first:
        await share(tmp_path, wrong, FakeNode("right"), reference=PINNED, said=said)
    else:
        with pytest.raises(NotReadyError):
            await share(tmp_path, FakeNode("right", refuses_at=3), reference=PINNED)
        await share(tmp_path, wrong, FakeNode("again"), said=said)
    [line] = [line for line in said if line.startswith("wrong leaves the job")]
    assert "its vectors are not those of the job" in line
    assert "with the model's known vectors, where 0.999 is the least" in line
    assert wrong.calls == 0
    await check_output(tmp_path)


async def test_golden_vectors_that_rotted_end_a_job_that_goes_on(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError):
        await share(tmp_path, FakeNode("a", refuses_at=3))
    path = parts_folder(tmp_path / "shared.jsonl") / "golden.json"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="golden vectors of the job"):
        await share(tmp_path, FakeNode("b"))


def test_quantised_weights_may_be_a_little_off_the_catalogs_but_not_off_another_nodes() -> None:
    assert PINNED.vectors is not None
    off = PINNED.vectors + 0.08 * np.roll(PINNED.vectors, 1, axis=1)
    off /= np.linalg.norm(off, axis=1, keepdims=True)
    assert 0.99 < np.min(np.sum(off * PINNED.vectors, axis=1)) < 0.999
    assert PINNED.settle(off, "Q8_0") is PINNED
    for reference, quantisation in ((PINNED, "F16"), (replace(PINNED, pinned=False), "Q8_0")):
        with pytest.raises(VectorSpaceError, match="not those of the job"):
            reference.settle(off, quantisation)
    with pytest.raises(VectorSpaceError, match="another shape"):
        PINNED.settle(off[:, :-1], None)


def test_the_catalogs_golden_vectors_are_taken() -> None:
    reference = make_reference(load_catalog().models["all-minilm-l6-v2"])
    assert reference.pinned
    assert reference.vectors is not None
    assert reference.vectors.shape == (len(reference.texts), 384)
    assert make_reference(None).vectors is None


async def test_a_node_that_yields_to_others_is_told_of(tmp_path: Path) -> None:
    said: list[str] = []
    await share(tmp_path, FakeNode("slow", niceness=15), said=said)
    assert "slow takes part, but yields to all else there: it has niceness 15" in said


async def test_no_node_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="there is no node"):
        await share(tmp_path)


async def test_a_fragment_that_ends_nodes_ends_the_job(tmp_path: Path) -> None:
    nodes = [FakeNode(f"n{number}", lost_at=tuple(range(1, 40))) for number in range(8)]
    with pytest.raises(EngineError, match="nodes were lost that worked at fragment"):
        await share(tmp_path, *nodes)
    assert all(node.stops for node in nodes if node.starts)


async def test_a_changed_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError):
        await share(tmp_path, FakeNode("a", refuses_at=3))
    job = BulkJob(TextInput(texts=("other", *TEXTS[1:])), tmp_path / "shared.jsonl", fragment=4)
    with pytest.raises(CheckpointError, match="its input changed"):
        await share(tmp_path, FakeNode("b"), space=SPACE, job=job)


async def test_a_node_that_comes_later_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafile_mgr.bulk.sharing._LOOK_SECONDS", 0.01)
    first, later = FakeNode("first"), FakeNode("later")
    slow = first.embed

    async def embed(fragment: Fragment) -> FinishedFragment:
        await later.came.wait()
        return await slow(fragment)

    monkeypatch.setattr(first, "embed", embed)
    async with SharedWork(FakeFinder([[first], [], [later]]), None, Reference(), 2, lambda _: None) as work:
        await work.first()
        await complete_job(job_for(tmp_path), work)
    assert later.done
    await check_output(tmp_path)
