"""Inputs behind URLs, in fsspec's file system in memory and in that of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from llamafile_mgr.bulk import BulkJob, TextInput
from llamafile_mgr.bulk.job import run_job
from llamafile_mgr.bulk.readers import InputForm, count_texts, form_of, read_texts
from llamafile_mgr.errors import CheckpointError, NotFoundError, UsageError
from tests.bulk.texts import FakeSource

ROWS = [{"id": f"k{n}", "text": f"text {n}"} for n in range(40)]


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def put(system: fsspec.AbstractFileSystem, name: str) -> str:
    if name.endswith(".parquet"):
        with system.open(name, "wb") as stream:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), stream)
    elif name.endswith(".csv"):
        system.pipe(name, b"id,text\n" + b"".join(f"{r['id']},{r['text']}\n".encode() for r in ROWS))
    else:
        system.pipe(name, b"".join(json.dumps(row).encode() + b"\n" for row in ROWS))
    return f"memory://{name}"


@pytest.mark.parametrize("name", ["/c/in.parquet", "/c/in.jsonl", "/c/in.csv"])
async def test_a_url_gives_what_a_file_gives(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, name: str
) -> None:
    source = TextInput(url=put(memory, name))
    assert [(each.id, each.text) for each in read_texts(source)] == [(r["id"], r["text"]) for r in ROWS]
    assert count_texts(source) == (40 if name.endswith(".parquet") else None)
    report = await run_job(BulkJob(source, tmp_path / "out.npy", fragment=8), FakeSource())
    assert (report.texts, report.failed) == (40, 0)


def test_a_file_url(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('"one"\n"two"\n')
    assert [each.text for each in read_texts(TextInput(url=path.as_uri()))] == ["one", "two"]
    assert form_of(TextInput(url="s3://bucket/in.PARQUET?versionId=3")) is InputForm.PARQUET


async def test_a_changed_file_behind_a_url_is_noticed(
    memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    job = BulkJob(TextInput(url=put(memory, "/c/in.jsonl")), tmp_path / "out.npy", batch=4, fragment=8)
    with pytest.raises(ConnectionError):
        await run_job(job, FakeSource(dies_after=20))
    memory.pipe("/c/in.jsonl", b'"other"\n')
    with pytest.raises(CheckpointError, match="its input changed"):
        await run_job(job, FakeSource())
    assert (await run_job(replace(job, restart=True), FakeSource())).texts == 1


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("memory:///none.jsonl", NotFoundError),
        ("memory:///none.parquet", NotFoundError),
        ("nosuch://x/in.jsonl", UsageError),
        ("memory:///in", UsageError),
    ],
)
async def test_what_cannot_be_opened(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, url: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await run_job(BulkJob(TextInput(url=url), tmp_path / "out.npy"), FakeSource())
