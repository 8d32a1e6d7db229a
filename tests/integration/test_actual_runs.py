"""What ``serve`` tells of real engines: where and how they run, beside what was planned."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.support.service import Service, read_models, run_program, running_service, share_store

MODEL = "all-minilm-l6-v2"
NOTHING_ELSE = {"device": "cpu", "layers": None, "gpu_bytes": 0}


def test_it_runs_as_planned_and_says_so(service: Service, model_home: Path) -> None:
    metrics = httpx.get(f"{service.url}/metrics").text
    for model in read_models(model_home, service):
        for engine in model["engines"]:
            labels = f'{{model="{model["model"]}",engine="{engine["name"]}"}}'
            assert f"llamafile_engine_deviations{labels} 0" in metrics
            assert engine["deviations"] == []
            actual, planned = engine["actual"], engine["planned"]
            assert {key: actual[key] for key in NOTHING_ELSE} == NOTHING_ELSE
            assert (actual["context"], actual["slots"]) == (planned["context"], planned["slots"])
            assert actual["batch"] == (planned["batch"] or 512)
    page = httpx.get(f"{service.url}/ui/status.json").json()
    assert {engine["actual"]["device"] for each in page["models"] for engine in each["engines"]} == {"cpu"}


def test_what_the_engine_caps_is_told_with_its_cause(model_home: Path, tmp_path: Path) -> None:
    """The model's own context is 512 tokens; settings may ask for more, and do not get it."""
    share_store(model_home, tmp_path)
    (tmp_path / "config.toml").write_text(f'[models."{MODEL}"]\ncontext = 1024\nreplicas = 1\n')
    with running_service(tmp_path, MODEL) as running:
        [model] = read_models(tmp_path, running)
        [engine] = model["engines"]
        assert engine["planned"]["context"] == 1024
        assert engine["actual"]["context"] == 512
        [told] = engine["deviations"]
        assert told.startswith("context: 1024 tokens planned, 512 tokens found: the slot context")
        assert f"{engine['name']}: not as planned: {told}" in run_program(tmp_path, "status").stdout
        [listed] = json.loads(run_program(tmp_path, "ps", "--json").stdout)
        assert listed["deviations"] == [told]
        doctor = run_program(tmp_path, "doctor", "--quiet", "--port", "0").stdout
        assert f"engines: {engine['name']}: {told}" in " ".join(doctor.split())
        assert f'llamafile_engine_deviations{{model="{MODEL}",engine="{engine["name"]}"}} 1' in (
            httpx.get(f"{running.url}/metrics").text
        )


def test_a_gpu_that_is_required_and_not_there(model_home: Path, tmp_path: Path) -> None:
    share_store(model_home, tmp_path)
    (tmp_path / "config.toml").write_text(f'[models."{MODEL}"]\nrequire_gpu = true\n')
    result = run_program(tmp_path, "serve", MODEL)
    assert result.returncode == 10, result.stderr
    assert f"{MODEL} would run without a GPU, and its settings require one" in result.stderr
