"""Files, folders and patterns, here and behind URLs: what inputs they mean, and ids of what is in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from llamafile_mgr.bulk import BulkJob, TextInput
from llamafile_mgr.bulk.inputs import find_inputs
from llamafile_mgr.bulk.job import run_job
from llamafile_mgr.bulk.readers import InputForm, form_of
from llamafile_mgr.errors import CheckpointError, Error, InvalidFileError, NotFoundError, UsageError
from tests.bulk.texts import FakeSource

FILES = (
    "c/a.txt",
    "c/b.jsonl",
    "c/deep/z.csv",
    "c/notes.md",
    "c/.hidden.txt",
    "c/_temporary/x.txt",
    "c/[odd].txt",
)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("text\none\n")
    return tmp_path


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    for name in FILES:
        system.pipe(f"/{name}", b"text\none\n")
    yield system
    system.store.clear()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["c"], ["c/[odd].txt", "c/a.txt", "c/b.jsonl", "c/deep/z.csv"]),
        (["c/a.txt", "c"], ["c/a.txt", "c/[odd].txt", "c/b.jsonl", "c/deep/z.csv"]),
        (["c/*.txt"], ["c/[odd].txt", "c/a.txt"]),
        (["c/**/*.[ct]*"], ["c/[odd].txt", "c/_temporary/x.txt", "c/a.txt", "c/deep/z.csv"]),
        (["c/[odd].txt"], ["c/[odd].txt"]),
        (["./c/a.txt", "c/../c/a.txt", os.path.join(".", "c", "b.jsonl")], ["c/a.txt", "c/b.jsonl"]),
        (["c/_temporary"], ["c/_temporary/x.txt"]),
    ],
)
def test_files_folders_and_patterns(corpus: Path, names: list[str], found: list[str]) -> None:
    inputs = find_inputs(names, TextInput())
    assert [os.path.relpath(each.name) for each in inputs] == found
    assert all(each.label == (each.name if len(found) > 1 else None) for each in inputs)


def test_a_form_takes_files_of_any_name(corpus: Path) -> None:
    like = TextInput(form=InputForm.TXT, text_column="x")
    inputs = find_inputs(["c"], like)
    assert "c/notes.md" in {each.name for each in inputs}
    assert all((each.form, each.text_column) == (InputForm.TXT, "x") for each in inputs)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["memory://c/"], ["[odd].txt", "a.txt", "b.jsonl", "deep/z.csv"]),
        (["memory://c/*.jsonl", "memory://c/a.txt"], ["b.jsonl", "a.txt"]),
    ],
)
def test_urls(memory: fsspec.AbstractFileSystem, names: list[str], found: list[str]) -> None:
    inputs = find_inputs(names, TextInput())
    assert [(each.url or "").split("/c/")[1] for each in inputs] == found
    assert all((each.url or "").startswith("memory://") for each in inputs)


@pytest.mark.parametrize(
    ("names", "error", "says"),
    [
        (["c/*.parquet"], NotFoundError, "c/*.parquet has no file to read"),
        (["empty"], NotFoundError, "--input-format"),
        (["-", "c"], UsageError, "standard input goes alone"),
        (["memory://none/*.txt"], NotFoundError, "has no file to read"),
        (["nosuch://x/*.txt"], UsageError, "nothing here opens"),
        (["http://localhost:1/*.txt"], (InvalidFileError, UsageError), "http://localhost:1/"),
    ],
)
def test_what_names_nothing(
    corpus: Path, names: Sequence[str], error: type[Error], says: str, memory: fsspec.AbstractFileSystem
) -> None:
    (corpus / "empty").mkdir()
    with pytest.raises(error) as caught:
        find_inputs(names, TextInput())
    assert says in caught.value.describe()


def test_a_url_is_a_folder_by_its_end_alone(memory: fsspec.AbstractFileSystem) -> None:
    [source] = find_inputs(["memory://c"], TextInput())
    with pytest.raises(UsageError) as caught:
        form_of(source)
    assert "a folder ends in /" in caught.value.describe()


def test_an_output_is_no_input(corpus: Path) -> None:
    (corpus / "c" / "out").mkdir()
    (corpus / "c" / "out" / "part-000000000.parquet").write_bytes(b"")
    (corpus / "c" / "out.jsonl").write_text("")
    (corpus / "c" / "out.parts").mkdir()
    (corpus / "c" / "out.parts" / "kept.txt").write_text("")
    for output in ("out", "out.jsonl"):
        names = {each.name for each in find_inputs(["c"], TextInput(), corpus / "c" / output)}
        assert not any(name.startswith(f"c/{output}") and name.split("/")[1] == output for name in names)
        assert len(names) == 5 + (output == "out.jsonl")


async def test_every_file_has_fragments_and_numbers_of_its_own(corpus: Path) -> None:
    (corpus / "one.txt").write_text("a\nb\nc\n")
    (corpus / "two.jsonl").write_text('{"id": 7, "text": "d"}\n"e"\nbroken\n')
    (corpus / "three.csv").write_text("text\nf\n")
    sources = find_inputs(["one.txt", "two.jsonl", "three.csv"], TextInput())
    job = BulkJob(sources, corpus / "out.jsonl", batch=2, fragment=2)
    assert [len(fragment.records) for fragment in job.read_fragments()] == [2, 1, 2, 1, 1]
    report = await run_job(job, FakeSource())
    lines = [json.loads(line) for line in (corpus / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [
        "one.txt:1",
        "one.txt:2",
        "one.txt:3",
        7,
        "two.jsonl:2",
        "two.jsonl:3",
        "three.csv:1",
    ]
    assert (report.texts, report.failed) == (7, 1)


@pytest.mark.parametrize("change", ["order", "more", "content"])
async def test_changed_inputs_are_noticed(corpus: Path, change: str) -> None:
    for name in ("one.txt", "two.txt", "three.txt"):
        (corpus / name).write_text("".join(f"{name} {n}\n" for n in range(9)))
    sources = find_inputs(["one.txt", "two.txt"], TextInput())
    job = BulkJob(sources, corpus / "out.npy", batch=2, fragment=4)
    with pytest.raises(ConnectionError):
        await run_job(job, FakeSource(dies_after=11))
    if change == "order":
        changed = replace(job, source=sources[::-1])
    elif change == "more":
        changed = replace(job, source=find_inputs(["one.txt", "two.txt", "three.txt"], TextInput()))
    else:
        (corpus / "two.txt").write_text("other\n")
        changed = job
    with pytest.raises(CheckpointError, match="its input changed"):
        await run_job(changed, FakeSource())
