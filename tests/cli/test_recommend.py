"""``recommend`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamafile_mgr.cli import run
from llamafile_mgr.errors import InvalidFileError, NotFoundError, PlanError, UsageError
from llamafile_mgr.machine import Cpu, Machine, System
from llamafile_mgr.machine.hardware import Memory
from llamafile_mgr.machine.snapshot import machine_to_dict
from tests.support.commands import parse_command

GIB = 1024**3


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path / "home"))


@pytest.fixture
def snapshot(tmp_path: Path) -> str:
    """Return the file of a server with 96 cores and 256 GiB."""
    machine = Machine(
        System.LINUX, architecture="x86_64", cpu=Cpu(physical_cores=96), memory=Memory(256 * GIB, 250 * GIB)
    )
    path = tmp_path / "server.json"
    path.write_text(json.dumps({"ok": True, "machine": machine_to_dict(machine), "checks": []}))
    return str(path)


def test_for_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recommend", "--corpus-size", "10"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("embedding: ")
    for part in ("why not the others:", "assumed:", "next: llamafile-mgr pull"):
        assert part in out


def test_for_another_machine(capsys: pytest.CaptureFixture[str], snapshot: str) -> None:
    assert run(["recommend", "--machine", snapshot, "--commercial", "--with-generation"]) == 0
    out = capsys.readouterr().out
    assert "embedding: e5-mistral-7b-instruct:" in out
    assert "generation: " in out
    assert "CC-BY-NC-4.0, does not allow commercial use" in out
    bench = "llamafile-mgr bench e5-mistral-7b-instruct --scale --nodes 1 --texts 10000"
    assert f"then: {bench}, which" in out
    parse_command(bench.split()[1:])


def test_json(capsys: pytest.CaptureFixture[str], snapshot: str) -> None:
    assert run(["recommend", "--machine", snapshot, "--json", "--doc-length", "long"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["embedding"]["model"] == "sfr-embedding-mistral"
    assert data["use"]["doc_length"] == "long"


def test_nothing_fits(capsys: pytest.CaptureFixture[str], snapshot: str) -> None:
    assert run(["recommend", "--machine", snapshot, "--max-memory", "50MB"]) == PlanError.exit_code
    captured = capsys.readouterr()
    assert "50 MB are allowed" in captured.out
    assert "--max-memory" in captured.err
    assert run(["recommend", "--machine", snapshot, "--max-memory", "50MB", "--json"]) == PlanError.exit_code
    assert json.loads(capsys.readouterr().out)["embedding"] is None


@pytest.mark.parametrize(
    ("size", "allowed"), [("8GB", 8.0), ("8 gb", 8.0), ("8GiB", 8.6), ("1.5g", 1.5), ("900000000", 0.9)]
)
def test_sizes(capsys: pytest.CaptureFixture[str], snapshot: str, size: str, allowed: float) -> None:
    assert run(["recommend", "--machine", snapshot, "--max-memory", size]) == 0
    assert f"{allowed} GB allowed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-memory", "much"],
        ["--max-memory", "0"],
        ["--max-memory", "-5GB"],
        ["--max-memory", "5XB"],
        ["--corpus-size", "0"],
        ["--doc-length", "endless"],
        ["--tasks", "sts"],
        ["--by", "mean"],
        ["--scores", "x.csv"],
        ["--leaderboard", "--tasks", "chess"],
        ["--leaderboard", "--tasks", ","],
        ["--leaderboard", "--by", "luck"],
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recommend", *arguments]) == 2
    assert capsys.readouterr().out == ""


def test_a_missing_snapshot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["recommend", "--machine", str(tmp_path / "none.json")]) == NotFoundError.exit_code
    assert "doctor --json" in capsys.readouterr().err


def test_the_posts_leaderboard(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recommend", "--leaderboard"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["1", "SFR-Embedding-Mistral", "5.72", "63.66", "51.67", "60.64", "59.00", "85.05"] in lines
    assert ["10", "GIST-large-Embedding-v0", "15.71", "59.99", "46.55", "60.05", "53.44", "84.59"] in lines
    assert "40 data sets" in out
    assert "cannot be recomputed from category averages alone" in out


def test_the_leaderboard_of_some_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recommend", "--leaderboard", "--tasks", "sts,retrieval", "--by", "mean", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["datasets"] == ["retrieval", "sts"]
    assert data["rows"][0]["model"] == "SFR-Embedding-Mistral"
    assert data["rows"][0]["published_mtr"] == 5.72
    assert data["published"] is None
    assert any("cannot be recomputed" in note for note in data["notes"])


def test_scores_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    scores.write_text("model,STS,Retrieval\nModel A,82.58,41.17\nModel B,78.08,51.99\nModel C,80,\n")
    assert run(["recommend", "--leaderboard", "--scores", str(scores)]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["1.5", "Model", "A", "1.50", "61.88", "82.58", "41.17"] in lines
    assert ["1.5", "Model", "B", "1.50", "65.04", "78.08", "51.99"] in lines
    assert "Not ranked" in out
    assert "Model C (1 missing, Retrieval first)" in out
    assert "post" not in out
    assert run(["recommend", "--leaderboard", "--scores", str(scores), "--tasks", "sts", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in data["rows"]] == ["Model A", "Model C", "Model B"]
    assert data["incomplete"] == {}


def test_wrong_scores(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    command = ["recommend", "--leaderboard", "--scores", str(scores)]
    assert run(command) == NotFoundError.exit_code
    for data in (b"", b"model,a\nx,many\n", b"model,\xff\nx,1\n", b"\0\0"):
        scores.write_bytes(data)
        assert run(command) == InvalidFileError.exit_code
    scores.write_text("model,Chess\nx,1\n")
    assert run([*command, "--tasks", "sts"]) == UsageError.exit_code
    assert run(["recommend", "--leaderboard", "--scores", str(tmp_path)]) == 2
    assert capsys.readouterr().out == ""


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recommend", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert "--doc-length" in out
