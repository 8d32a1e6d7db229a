"""Jobs that are interrupted, changed, damaged and finished, before a source without engines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafile_mgr.bulk import BulkJob, EmbedSettings, JobProgress, TextInput, embed_file
from llamafile_mgr.bulk.checkpoints import FinishedFragment, Parts, parts_folder
from llamafile_mgr.bulk.job import check_job, run_job, stream_job
from llamafile_mgr.embedding.requests import InputType
from llamafile_mgr.errors import CheckpointError, Error, NotFoundError, UsageError
from tests.bulk.texts import FAILING, FakeSource
from tests.embedding.stub_pool import WIDTH, vector_of

FEW = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def corpus(path: Path, count: int = 50) -> Path:
    texts = [f"text {n}" + (FAILING if n % 17 == 3 else " long" if n % 11 == 5 else "") for n in range(count)]
    lines = [json.dumps({"id": f"k{n}", "text": text}) for n, text in enumerate(texts)]
    path.write_text("".join(line + "\n" for line in [*lines, "{broken"]))
    return path


def job_for(tmp_path: Path, output: str = "out.jsonl", **options: object) -> BulkJob:
    path = tmp_path / "in.jsonl"
    source = TextInput(path if path.exists() else corpus(path))
    sizes = {"batch": 3, "concurrency": 2, "fragment": 7}
    return BulkJob(source, tmp_path / output, **{**sizes, **options})  # type: ignore[arg-type]


def outputs(tmp_path: Path, stem: str) -> dict[str, bytes]:
    files = {p.name.removeprefix(stem): p.read_bytes() for p in tmp_path.glob(f"{stem}.*") if p.is_file()}
    return files | (outputs_of(tmp_path / stem) if (tmp_path / stem).is_dir() else {})


def outputs_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_every_text_gets_its_own_vector_or_its_error(tmp_path: Path) -> None:
    seen: list[JobProgress] = []
    job, source = job_for(tmp_path), FakeSource()
    report = await run_job(job, source, seen.append)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [*(f"k{n}" for n in range(50)), 51]
    for n, line in enumerate(lines[:50]):
        if n % 17 == 3:
            assert line == {"id": f"k{n}", "error": {"code": "engine", "message": "no vector"}}
        else:
            text = f"text {n}" + (" long" if n % 11 == 5 else "")
            assert np.array_equal(np.array(line["embedding"], np.float32), vector_of(text))
            assert line["vector_space"] == "0" * 16
            assert line.get("truncated") == ("right" if "long" in text else None)
    assert lines[50]["error"]["code"] == "unreadable"
    assert (report.texts, report.failed, report.truncated, report.kept) == (51, 4, 5, 0)
    assert (report.dimensions, report.exact) == (WIDTH, True)
    assert [each.done for each in seen] == [0, 7, 14, 21, 28, 35, 42, 49, 51]
    assert seen[-1] == JobProgress(51, 0, 4, 51)
    assert source.most_under_way == 2
    assert not parts_folder(tmp_path / "out.jsonl").exists()


@FEW
@given(st.lists(st.integers(0, 300), max_size=6), st.sampled_from([".jsonl", ".npy", ".parquet", ""]))
def test_interruptions_change_no_byte(tmp_path: Path, moments: list[int], form: str) -> None:
    """A moment is the turn of the event loop at which the job is cancelled."""
    whole = job_for(tmp_path, f"whole{form}", overwrite=True)
    asyncio.run(run_job(whole, FakeSource()))
    job = job_for(tmp_path, f"cut{form}", overwrite=True)
    asked = FakeSource()

    async def interrupted(turns: int) -> None:
        task = asyncio.create_task(run_job(job, asked))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    for turns in moments:
        asyncio.run(interrupted(turns))
    report = asyncio.run(run_job(job, asked))
    assert outputs(tmp_path, "cut") == outputs(tmp_path, "whole")
    assert report.texts == 51
    for path in (*tmp_path.glob("cut*"), *tmp_path.glob("whole*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


async def test_what_is_finished_is_not_computed_again(tmp_path: Path) -> None:
    job = job_for(tmp_path)
    first = FakeSource(dies_after=30)
    with pytest.raises(ConnectionError):
        await run_job(job, first)
    assert not (tmp_path / "out.jsonl").exists()
    kept = len(list(parts_folder(tmp_path / "out.jsonl").rglob("*.part"))) * 7
    assert kept >= 14
    second = FakeSource()
    report = await run_job(job, second)
    assert report.kept == kept
    assert not {f"text {n}" for n in range(kept)} & set(second.asked)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("input", "its input changed"),
        ("settings", "its settings changed"),
        ("space", "its vector space changed"),
        ("model", "its model"),
        ("fragment", "the size of its fragments changed"),
    ],
)
async def test_a_job_that_changed_is_refused_and_may_begin_anew(
    tmp_path: Path, change: str, says: str
) -> None:
    job = job_for(tmp_path)
    with pytest.raises(ConnectionError):
        await run_job(job, FakeSource(dies_after=30))
    source = FakeSource()
    if change == "input":
        path = tmp_path / "in.jsonl"
        path.write_text(path.read_text() + '{"id": "new", "text": "new"}\n')
    elif change == "settings":
        job = replace(job, settings=EmbedSettings(InputType.QUERY))
    elif change == "space":
        source = FakeSource(vector_space="1" * 16)
    elif change == "model":
        source = FakeSource(model="other")
    else:
        job = replace(job, fragment=8)
    with pytest.raises(CheckpointError, match=says):
        await run_job(job, source)
    assert source.asked == []
    await run_job(replace(job, restart=True), source)
    assert (tmp_path / "out.jsonl").exists()


async def test_other_texts_on_standard_input_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read twice is compared fragment by fragment."""
    given = TextInput(texts=tuple(f"text {n}" for n in range(20)))
    job = replace(job_for(tmp_path), source=given)
    with pytest.raises(ConnectionError):
        await run_job(job, FakeSource(dies_after=15))
    other = TextInput(texts=("other", *(given.texts or ())[1:]))
    with pytest.raises(CheckpointError, match="its input changed"):
        await run_job(replace(job, source=other), FakeSource())


async def test_a_part_that_rotted_is_made_again(tmp_path: Path) -> None:
    job = job_for(tmp_path)
    with pytest.raises(ConnectionError):
        await run_job(job, FakeSource(dies_after=30))
    first = min(parts_folder(tmp_path / "out.jsonl").rglob("*.part"))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    source = FakeSource()
    await run_job(job, source)
    assert "text 0" in source.asked
    await run_job(job_for(tmp_path, "whole.jsonl"), FakeSource())
    assert outputs(tmp_path, "out") == outputs(tmp_path, "whole")


async def test_half_a_removed_folder_is_no_job(tmp_path: Path) -> None:
    job = job_for(tmp_path)
    with pytest.raises(ConnectionError):
        await run_job(job, FakeSource(dies_after=30))
    (parts_folder(tmp_path / "out.jsonl") / "job.json").unlink()
    source = FakeSource(vector_space="1" * 16)
    report = await run_job(job, source)
    assert report.kept == 0


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    job = job_for(tmp_path)
    with (
        Parts(parts_folder(tmp_path / "out.jsonl")).opened({"x": 1}),
        pytest.raises(CheckpointError, match="another process"),
    ):
        await run_job(job, FakeSource())


async def test_numpy(tmp_path: Path) -> None:
    await run_job(job_for(tmp_path, "v.npy"), FakeSource())
    vectors = np.load(tmp_path / "v.npy")
    assert (vectors.shape, vectors.dtype) == ((51, WIDTH), np.float32)
    ids = [json.loads(line) for line in (tmp_path / "v.ids.jsonl").read_text().splitlines()]
    errors = [json.loads(line) for line in (tmp_path / "v.errors.jsonl").read_text().splitlines()]
    assert [each["row"] for each in errors] == np.flatnonzero(np.isnan(vectors[:, 0])).tolist()
    assert all(ids[each["row"]] == each["id"] for each in errors)
    meta = json.loads((tmp_path / "v.meta.json").read_text())
    assert (meta["vector_space"], meta["texts"], meta["failed"], meta["dimensions"]) == (
        "0" * 16,
        51,
        4,
        WIDTH,
    )
    clean = BulkJob(TextInput(texts=("a",)), tmp_path / "v.npy", overwrite=True)
    await run_job(clean, FakeSource())
    assert not (tmp_path / "v.errors.jsonl").exists()


async def test_parquet(tmp_path: Path) -> None:
    await run_job(job_for(tmp_path, "v.parquet"), FakeSource())
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    assert table.schema.metadata[b"llamafile_mgr.vector_space"] == b"0" * 16
    rows = table.to_pylist()
    assert (len(rows), rows[0]["id"], rows[50]["id"]) == (51, "k0", "51")
    failed = {"embedding": None, "vector_space": None, "error": "engine: no vector", "truncated": None}
    assert rows[3] == {"id": "k3", **failed}
    assert rows[5]["vector_space"] == "0" * 16
    assert rows[5]["truncated"] == "right"
    assert np.array_equal(np.array(rows[0]["embedding"], np.float32), vector_of("text 0"))
    await run_job(BulkJob(TextInput(texts=("a", "b")), tmp_path / "n.parquet"), FakeSource())
    assert pyarrow.parquet.read_table(tmp_path / "n.parquet")["id"].to_pylist() == [1, 2]


async def test_a_folder_of_files(tmp_path: Path) -> None:
    report = await run_job(job_for(tmp_path, "v"), FakeSource())
    await run_job(job_for(tmp_path, "v.parquet"), FakeSource())
    assert [path.name for path in sorted((tmp_path / "v").iterdir())] == [
        "_meta.json",
        *(f"part-{n:09d}.parquet" for n in range(8)),
    ]
    whole, single = (
        pyarrow.parquet.read_table(tmp_path / "v"),
        pyarrow.parquet.read_table(tmp_path / "v.parquet"),
    )
    assert whole.to_pylist() == single.to_pylist()
    assert whole.schema.remove_metadata() == single.schema.remove_metadata()
    one = pyarrow.parquet.read_table(tmp_path / "v" / "part-000000000.parquet")
    assert one.schema.metadata[b"llamafile_mgr.vector_space"] == b"0" * 16
    assert (one.num_rows, one.schema.metadata[b"llamafile_mgr.failed"]) == (7, b"1")
    meta = json.loads((tmp_path / "v" / "_meta.json").read_text())
    assert (meta["texts"], meta["failed"], meta["dimensions"]) == (report.texts, report.failed, WIDTH)


async def test_a_folder_shows_what_is_finished_and_its_files_are_not_made_again(tmp_path: Path) -> None:
    job, source = job_for(tmp_path, "v"), FakeSource(dies_after=30)
    with pytest.raises(ConnectionError):
        await run_job(job, source)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "v").glob("part-*")}
    assert len(made) >= 2
    rotten = min(made)
    vectors = pyarrow.parquet.ParquetFile(rotten).metadata.row_group(0).column(1)
    data = bytearray(rotten.read_bytes())
    data[vectors.data_page_offset + vectors.total_compressed_size - 9] ^= 1
    rotten.write_bytes(data)
    report = await run_job(job, FakeSource())
    assert report.kept == 7 * (len(made) - 1)
    assert [path for path, at in made.items() if path.stat().st_mtime_ns != at] == [rotten]


async def test_a_folder_of_others_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    await run_job(job_for(tmp_path, "v"), FakeSource())
    with pytest.raises(UsageError, match="is there already"):
        await run_job(job_for(tmp_path, "v"), FakeSource())
    few = BulkJob(TextInput(texts=("a", "b")), tmp_path / "v", overwrite=True)
    await run_job(few, FakeSource())
    assert len(list((tmp_path / "v").glob("part-*"))) == 1
    (tmp_path / "v" / "mine.txt").write_text("")
    with pytest.raises(UsageError, match=r"other files, such as mine\.txt"):
        await run_job(few, FakeSource())


@pytest.mark.parametrize("name", ["e.jsonl", "e.npy", "e.parquet", "e"])
@pytest.mark.parametrize("texts", [(), (FAILING,) * 9])
async def test_without_a_single_vector(tmp_path: Path, name: str, texts: tuple[str, ...]) -> None:
    job = BulkJob(TextInput(texts=texts), tmp_path / name, fragment=4)
    report = await run_job(job, FakeSource(dimensions=None))
    assert (report.texts, report.failed) == (len(texts), len(texts))


async def test_a_fragment_of_failures_among_others(tmp_path: Path) -> None:
    job = BulkJob(TextInput(texts=(*[FAILING] * 4, "a")), tmp_path / "f.npy", fragment=4)
    await run_job(job, FakeSource(dimensions=None))
    assert np.load(tmp_path / "f.npy").shape == (5, WIDTH)
    await run_job(replace(job, output=tmp_path / "f"), FakeSource(dimensions=None))
    await run_job(replace(job, output=tmp_path / "known"), FakeSource())
    assert pyarrow.parquet.read_table(tmp_path / "f").num_rows == 5
    assert outputs_of(tmp_path / "f") == outputs_of(tmp_path / "known")


@pytest.mark.parametrize(
    ("output", "options", "error", "says"),
    [
        ("there.jsonl", {}, UsageError, "--overwrite"),
        ("x.docx", {}, UsageError, ".parquet"),
        ("folder.npy", {}, UsageError, "is a folder"),
        ("file", {}, UsageError, "is no folder"),
        ("none/x.npy", {}, NotFoundError, "no directory"),
        ("x.npy", {"source": TextInput(Path("/nonexistent.txt"))}, NotFoundError, "no file"),
    ],
)
def test_what_is_refused_before_anything_starts(
    tmp_path: Path, output: str, options: dict[str, object], error: type[Error], says: str
) -> None:
    (tmp_path / "there.jsonl").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.npy").mkdir()
    job = replace(job_for(tmp_path, output), **options)  # type: ignore[arg-type]
    with pytest.raises(error) as caught:
        check_job(job)
    assert says in caught.value.describe()
    assert (tmp_path / "there.jsonl").read_text() == "mine"


async def test_a_stream_keeps_nothing(tmp_path: Path) -> None:
    parts: list[FinishedFragment] = []
    job = BulkJob(job_for(tmp_path).source, batch=3, fragment=7)
    report = await stream_job(job, FakeSource(), parts.append)
    assert [known for part in parts for known in part.ids] == [*(f"k{n}" for n in range(50)), 51]
    assert report.texts == 51
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_the_whole_as_one_call(tmp_path: Path) -> None:
    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[FakeSource]:
        yield FakeSource(exact=False)

    report = embed_file(job_for(tmp_path), connect)
    assert (report.texts, report.exact) == (51, False)


async def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    async def peak(count: int) -> int:
        path = tmp_path / f"{count}.txt"
        with path.open("w") as stream:
            stream.writelines(f"text {n} " + "w" * 2000 + "\n" for n in range(count))
        job = BulkJob(TextInput(path), tmp_path / f"{count}.npy", fragment=32)
        source = FakeSource()
        source.asked = _Nothing()
        tracemalloc.start()
        await run_job(job, source)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    await peak(64)
    small, large = await peak(128), await peak(1280)
    assert large < small + 1_000_000


class _Nothing(list[str]):
    """A list that forgets, so that a test of memory measures the job."""

    def __iadd__(self, other: object) -> _Nothing:  # type: ignore[override, misc]
        return self
