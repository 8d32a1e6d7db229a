"""``doctor`` as a user runs it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamafile_mgr.cli import run
from llamafile_mgr.errors import PlanError
from llamafile_mgr.machine.snapshot import machine_from_dict, read_snapshot
from tests.support.llama_programs import write_llama_server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path / "home"))
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_it_prints_every_check(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert run(["doctor", "--port", "0"]) == 0
    out = capsys.readouterr().out
    for name in ("system:", "cores:", "memory:", "gpu", "store:", "engine-home:", "disk:", "shell:"):
        assert name in out
    assert "nothing fails" in out
    assert not home.exists()


def test_json_has_the_machine_and_the_checks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["doctor", "--json", "--port", "0"]) == 0
    text = capsys.readouterr().out
    data = json.loads(text)
    assert data["ok"] is True
    assert {check["outcome"] for check in data["checks"]} <= {"pass", "warn"}
    assert data["machine"]["cpu"]["usable_cores"] >= 1
    (tmp_path / "snapshot.json").write_text(text)
    assert read_snapshot(tmp_path / "snapshot.json") == machine_from_dict(data["machine"])


def test_a_taken_port_is_a_warning_with_a_fix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, taken_port: int
) -> None:
    monkeypatch.setenv("LLAMAFILE_MGR_SERVE_PORT", str(taken_port))
    assert run(["doctor", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert f"127.0.0.1:{taken_port} is taken" in out
    assert "why it matters:" in out
    assert "fix:" in out
    assert "pass" not in out


def test_a_failure_has_an_exit_code(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "store").mkdir(parents=True)
    (home / "store").chmod(0o777)
    assert run(["doctor", "--quiet", "--port", "0"]) == PlanError.exit_code
    out = capsys.readouterr().out
    assert "FAIL  store: others may write to" in out
    assert "chmod go-w" in out
    assert run(["doctor", "--json", "--port", "0"]) == PlanError.exit_code
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_programs_missing_from_path(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["doctor", "--quiet", "--port", "0"]) == PlanError.exit_code
    assert "FAIL  shell: missing: sh, uname, dd, gzip, chmod, mv, mkdir" in capsys.readouterr().out


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--help"]) == 0
    assert "Examples:" in capsys.readouterr().out
    assert run(["doctor", "--port", "99999"]) == 2


def test_it_lists_engines_and_what_is_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = write_llama_server(
        tmp_path / "good", devices="Available devices:\n  CUDA0: A (8 MiB, 7 MiB free)\n"
    )
    (tmp_path / "bad").mkdir()
    other = tmp_path / "bad" / "llama-server"
    other.write_text("#!/bin/sh\necho an animal\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:/usr/bin:/bin")
    monkeypatch.setenv("LLAMAFILE_MGR_ENGINES_PROGRAMS", str(program))
    assert run(["doctor", "--port", "0"]) == 0
    out = capsys.readouterr().out
    assert f"engine: llama.cpp 0.5.0-dev (build 1): {program}; devices: CUDA0: A (8 MiB, 7 MiB free)" in out
    assert f"warn  engine: {other} cannot be used as an engine" in out
    assert "'an animal'" in out
    assert run(["doctor", "--port", "0", "--json"]) == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    assert {
        "family": "llama.cpp",
        "version": "0.5.0-dev (build 1)",
        "program": str(program),
    }.items() <= engines[0].items()
    monkeypatch.setenv("LLAMAFILE_MGR_ENGINES_PROGRAMS", str(other))
    assert run(["doctor", "--port", "0", "--quiet"]) == PlanError.exit_code
    assert f"FAIL  engine: {other}" in capsys.readouterr().out


def test_it_reads_the_models_of_the_settings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAFILE_MGR_SERVE_EMBED", f"{tmp_path}/gone.gguf,{tmp_path}/text.gguf")
    (tmp_path / "text.gguf").write_text("no model")
    assert run(["doctor", "--port", "0", "--quiet"]) == PlanError.exit_code
    out = capsys.readouterr().out
    assert f"FAIL  model: no such file: {tmp_path}/gone.gguf" in out
    assert f"FAIL  model: {tmp_path}/text.gguf cannot be used" in out
