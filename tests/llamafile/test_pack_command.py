"""``pack`` as a user runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llamafile_mgr.cli import run
from llamafile_mgr.llamafile import inspect_file


def test_one_file_of_two(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, runtime: Path, bert: Path
) -> None:
    output = tmp_path / "x y.llamafile"
    arguments = ["--args", "--embedding -c 512", "--args", "-p 'two words'"]
    assert (
        run(["pack", "--runtime", str(runtime), "--weights", str(bert), *arguments, "-o", str(output)]) == 0
    )
    out = capsys.readouterr().out
    assert "bert.gguf, .args" in out
    assert f"run it: sh '{output}' --server" in out
    facts = inspect_file(output)
    assert facts.arguments is not None
    assert facts.arguments.arguments == ("-m", "bert.gguf", "--embedding", "-c", "512", "-p", "two words")


def test_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path, runtime: Path, bert: Path) -> None:
    output = tmp_path / "x"
    assert run(["pack", "--runtime", str(runtime), "--weights", str(bert), "-o", str(output), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == {
        "path": str(output),
        "size": output.stat().st_size,
        "members": ["bert.gguf", ".args"],
        "arguments": ["-m", "bert.gguf"],
    }


def test_overwriting_has_to_be_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, runtime: Path, bert: Path
) -> None:
    output = tmp_path / "x"
    output.write_text("mine")
    words = ["pack", "--runtime", str(runtime), "--weights", str(bert), "-o", str(output)]
    assert run(words) == 2
    assert "--force" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert run([*words, "--force"]) == 0
    assert inspect_file(output).weights


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--args": "'open"}, 2, "cannot be split"),
        ({"--weights": "none.gguf"}, 4, "no such file"),
        ({"--runtime": "none.bin"}, 4, "no such file"),
        ({"-o": "no/folder/x"}, 4, "no folder"),
    ],
)
def test_bad_calls(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    runtime: Path,
    bert: Path,
    changes: dict[str, str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"--runtime": str(runtime), "--weights": str(bert), "-o": "x"} | changes
    assert run(["pack", *(word for pair in options.items() for word in pair)]) == code
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_swapped_inputs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, runtime: Path, bert: Path
) -> None:
    words = ["pack", "--runtime", str(bert), "--weights", str(runtime), "-o", str(tmp_path / "x")]
    assert run(words) == 5
    assert "it is a GGUF" in capsys.readouterr().err
