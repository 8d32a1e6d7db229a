"""The control channel and what it does to a running service: nobody's call fails meanwhile."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.test_supervisor_kills import steady_load
from tests.support.golden import golden_cosine
from tests.support.service import Service, read_models, run_program, running_service, share_store

MODEL = "all-minilm-l6-v2"


@pytest.fixture
def home(model_home: Path, tmp_path: Path) -> Path:
    """Return a home of its own with the model in its store."""
    share_store(model_home, tmp_path)
    return tmp_path


def control(home: Path, *arguments: str) -> str:
    result = run_program(home, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def status(home: Path, service: Service) -> dict[str, Any]:
    [model] = read_models(home, service)
    return model


def pids(home: Path, service: Service) -> set[int]:
    return {engine["pid"] for engine in status(home, service)["engines"]}


def embed(service: Service, *, cached: bool = False) -> httpx.Response:
    body = {"input": "hello world", "use_cache": cached}
    return httpx.post(f"{service.url}/v1/embeddings", json=body, timeout=30)


def await_status(home: Path, service: Service, wanted: str, value: object) -> None:
    deadline = time.monotonic() + 20
    while status(home, service)[wanted] != value and time.monotonic() < deadline:
        time.sleep(0.2)
    assert status(home, service)[wanted] == value


def test_every_command(home: Path) -> None:
    with running_service(home, MODEL) as service:
        [socket] = (home / "run").glob("control-*.sock")
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert {e["model"] for e in json.loads(control(home, "ps", "--json"))} == {MODEL}
        assert "listening" in control(home, "logs", MODEL)
        assert "ready" in control(home, "status")
        control(home, "unload", MODEL)
        assert status(home, service)["loaded"] is False
        assert embed(service).status_code == 200
        control(home, "load", MODEL)
        unknown = run_program(home, "restart", "other")
        assert unknown.returncode == 4
        assert MODEL in unknown.stderr
        control(home, "stop")
        assert service.process.wait(15) == 0
    nobody = run_program(home, "status")
    assert nobody.returncode == 14
    assert "no serve is running" in nobody.stderr


def test_what_the_cache_knows_needs_no_engine(home: Path) -> None:
    with running_service(home, MODEL) as service:
        known = embed(service, cached=True).json()["data"]
        control(home, "unload", MODEL)
        seconds = []
        for _ in range(5):
            began = time.monotonic()
            assert embed(service, cached=True).json()["data"] == known
            seconds.append(time.monotonic() - began)
        assert min(seconds) < 0.1
        state = status(home, service)
        assert (state["loaded"], state["resting"]) == (False, True)
        assert embed(service).status_code == 200
        assert status(home, service)["loaded"] is True


def test_a_restart_under_load_fails_no_call(home: Path) -> None:
    with running_service(home, MODEL) as service:
        before = pids(home, service)
        with steady_load(service.url) as load:
            control(home, "restart", MODEL)
            time.sleep(0.5)
        assert not load.failures
        assert load.answered > 0
        assert not before & pids(home, service)


def test_an_idle_model_is_unloaded_and_comes_back(home: Path) -> None:
    (home / "config.toml").write_text(f'[models."{MODEL}"]\nidle_unload = "1s"\n')
    with running_service(home, MODEL) as service:
        await_status(home, service, "loaded", False)
        assert golden_cosine("hello world", embed(service).json()["data"][0]["embedding"]) >= 0.999


def test_an_engine_above_its_memory_is_replaced_without_a_failed_call(home: Path) -> None:
    settings = f'[models."{MODEL}"]\nreplicas = 1\nthreads = 1\nmemory_limit = "10MB"\n'
    (home / "config.toml").write_text(settings)
    with running_service(home, MODEL) as service:
        before = pids(home, service)
        with steady_load(service.url) as load:
            deadline = time.monotonic() + 20
            while (
                before & {e["pid"] for e in status(home, service)["engines"]} and time.monotonic() < deadline
            ):
                time.sleep(0.2)
        assert not load.failures
        assert not before & pids(home, service)


def test_other_weights_are_another_vector_space(home: Path, minilm: Path) -> None:
    model = home / f"{MODEL}.gguf"
    shutil.copy(minilm, model)
    with running_service(home, "--embed", str(model)) as service:
        space = embed(service).headers["x-vector-space"]
        model.unlink()
        model.write_bytes(minilm.read_bytes().replace(b"all-minilm-l6-v2", b"all-minilm-l6-v3", 1))
        refused = run_program(home, "restart", MODEL)
        assert refused.returncode == 10
        assert "--new-vector-space" in refused.stderr
        service.process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert embed(service).headers["x-vector-space"] == space
        control(home, "restart", MODEL, "--new-vector-space")
        reply = embed(service)
        assert reply.headers["x-vector-space"] != space
        assert golden_cosine("hello world", reply.json()["data"][0]["embedding"]) >= 0.999
