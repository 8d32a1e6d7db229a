"""``plan``: what it prints, for this machine and for another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamafile_mgr.cli import run
from llamafile_mgr.errors import (
    ConfigError,
    Error,
    InvalidFileError,
    NotFoundError,
    PlanError,
    UsageError,
)
from llamafile_mgr.machine import Machine
from llamafile_mgr.machine.snapshot import machine_to_dict
from tests.planner import samples
from tests.support.side_models import write_adapter


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path / "home"))


def snapshot(path: Path, machine: Machine) -> str:
    """Write a snapshot as ``doctor --json`` does."""
    path.write_text(json.dumps({"machine": machine_to_dict(machine)}), encoding="utf-8")
    return str(path)


def plan_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["plan", "--json", *arguments]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_the_table_names_every_choice(tiny_generator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(tiny_generator)]) == 0
    text = capsys.readouterr().out
    for word in ("SETTING", "context", "threads", "two conversations at once", "--port PORT", "KEY_FILE"):
        assert word in text
    assert "environment: HOME=" in text
    assert "together: " in text


def test_json_holds_command_memory_and_reasons(
    tiny_generator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = plan_json(capsys, str(tiny_generator))
    (plan,) = document["plans"]
    assert plan["role"] == "generate"
    assert plan["command"][plan["command"].index("--port") + 1] == "PORT"
    assert plan["memory"]["joint"] == document["memory"]["needed"]
    assert plan["memory"]["weights"] == tiny_generator.stat().st_size
    assert {"setting", "value", "why"} == set(plan["reasons"][0])
    assert "HF_TOKEN" not in plan["environment"]


def test_another_machine_is_planned_for(
    tiny_generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    file = snapshot(tmp_path / "server.json", samples.SERVER_192)
    document = plan_json(capsys, str(tiny_generator), "--machine", file)
    assert document["plans"][0]["settings"]["threads"] == 20
    assert "CUDA_VISIBLE_DEVICES" not in document["plans"][0]["environment"]
    assert document["memory"]["machine"] == samples.SERVER_192.memory.total


def test_bad_input_ends_in_an_error(
    tiny_generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan"]) == UsageError.exit_code
    assert "no model was named" in capsys.readouterr().err
    assert run(["plan", "no-such-model"]) == NotFoundError.exit_code
    assert run(["plan", str(tiny_generator), "--machine", str(tmp_path / "no.json")]) == 4
    capsys.readouterr()
    tiny = Path(snapshot(tmp_path / "pi.json", samples.RASPBERRY_1GB)).read_text(encoding="utf-8")
    (tmp_path / "pi.json").write_text(tiny.replace("1000000000", "270000000"), encoding="utf-8")
    assert run(["plan", str(tiny_generator), "--machine", str(tmp_path / "pi.json")]) == PlanError.exit_code
    assert "does not fit into this machine's memory" in capsys.readouterr().err


def test_both_roles_are_planned_together(
    model_home: Path,
    tiny_generator: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(model_home))
    document = plan_json(capsys, "--embed", "all-minilm-l6-v2", "--generate", str(tiny_generator))
    assert [plan["role"] for plan in document["plans"]] == ["embed", "generate"]
    parts = [plan["memory"]["joint"] for plan in document["plans"]]
    assert document["memory"]["needed"] == sum(parts)


def test_settings_are_shown_and_explained(
    tiny_generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write_adapter(tmp_path / "a.gguf")
    settings = tmp_path / "settings.toml"
    lines = [f'lora = [{{file = "{adapter}", scale = 0.5}}]', 'engine_args = ["--top-k=3", "--cache-ram=0"]']
    settings.write_text("\n".join(["[models.tiny-generator]", *lines]), encoding="utf-8")
    assert run(["--config", str(settings), "plan", str(tiny_generator)]) == 0
    text = capsys.readouterr().out
    assert f"{adapter} x 0.5" in text
    assert "--top-k=3 --cache-ram=0" in text
    assert "engine_args stand in for --cache-ram" in text
    assert "adapters, projector and draft model" in text
    assert f"--lora-scaled {adapter}:0.5 --top-k 3 --cache-ram 0" in text
    assert run(["show", str(adapter)]) == 0
    assert "adapter for a model of the architecture llama" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ('mmproj = "none.gguf"', NotFoundError, "models.tiny-generator.mmproj: no such file: none.gguf"),
        ('mmproj = "MODEL"', PlanError, "it is no projector"),
        ('draft = "README.md"', InvalidFileError, "neither a llamafile nor a GGUF"),
        ('lora = "MODEL"', PlanError, "it is no adapter"),
        ('cache_type = "q8_0"', PlanError, "a head has 16"),
        ('cache_type = "q9"', ConfigError, "models.tiny-generator.cache_type is q9"),
        ('cache_type = ["f16", "f16", "f16"]', ConfigError, "one for keys and one for values"),
        ('chat_template = "chatm"', ConfigError, "did you mean chatml?"),
        ('chat_template = "{{ x }}"', ConfigError, "write it into a file"),
        ('chat_template = "no/such.jinja"', ConfigError, "cannot read no/such.jinja"),
        ("reasoning_budget = -2", ConfigError, "at least -1"),
        ("yarn = {}", ConfigError, "without a scale"),
        ("yarn = {scale = 0.0}", ConfigError, "must be above zero"),
        ("yarn = {scale = nan}", ConfigError, "is nan, no number to count with"),
        ("yarn = 4.0", ConfigError, "must be a table"),
        ('rope = {scaling = "yarn"}', ConfigError, "yarn is a key of its own"),
        ("rope = {scale = 2.0}\nyarn = {scale = 2.0}", ConfigError, "both scale positions"),
        ("lora = [{scale = 1.0}]", ConfigError, "without a file"),
        ("lora = [3]", ConfigError, "must be a table"),
        ('engine_args = ["--host", "::"]', PlanError, "the address is chosen by this program"),
        ("engine_args = [3]", ConfigError, "a text or a list of texts"),
    ],
)
def test_settings_that_make_no_sense(
    line: str,
    code: type[Error],
    message: str,
    tiny_generator: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("not a model, and longer than the shortest llamafile head is, surely")
    settings = tmp_path / "settings.toml"
    settings.write_text(f"[models.tiny-generator]\n{line.replace('MODEL', str(tiny_generator))}\n")
    assert run(["--config", str(settings), "plan", str(tiny_generator)]) == code.exit_code
    assert message in capsys.readouterr().err
