"""An engine that computes rightly but slowly is told of, and told of again when it has recovered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.faults.test_supervisor_kills import NO_CACHE, engines_of
from tests.support.service import Service, read_models, run_program, running_service

MODEL = "all-minilm-l6-v2"
TEXT = "A text of a steady length that an engine takes a steady time for. " * 4


@contextmanager
def same_work(service: Service) -> Iterator[None]:
    """Send the same call again and again."""
    over = threading.Event()

    def send() -> None:
        with httpx.Client(timeout=60) as http:
            while not over.is_set():
                http.post(f"{service.url}/v1/embeddings", json={"input": TEXT}).raise_for_status()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join(70)


@contextmanager
def slowed(engine: psutil.Process) -> Iterator[None]:
    """Let the engine run for a sixteenth of the time."""
    over = threading.Event()

    def hinder() -> None:
        while not over.is_set():
            engine.suspend()
            time.sleep(0.15)
            engine.resume()
            time.sleep(0.01)

    hinderer = threading.Thread(target=hinder)
    hinderer.start()
    try:
        yield
    finally:
        over.set()
        hinderer.join(5)
        engine.resume()


def engine_state(home: Path, service: Service) -> dict[str, Any]:
    [model] = read_models(home, service)
    [engine] = model["engines"]
    assert isinstance(engine, dict)
    return engine


def await_slow(home: Path, service: Service, slow: bool) -> dict[str, Any]:
    deadline = time.monotonic() + 40
    while (state := engine_state(home, service))["slow"] is not slow and time.monotonic() < deadline:
        time.sleep(0.2)
    assert state["slow"] is slow
    return state


@pytest.mark.timeout(150)
def test_a_slow_engine_is_told_of(model_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "one.toml"
    config.write_text(f'[serve]\nliveness_seconds = 1.5\n[models."{MODEL}"]\nreplicas = 1\nthreads = 1\n')
    extra = {**NO_CACHE, "LLAMAFILE_MGR_CONFIG": str(config)}
    with running_service(model_home, MODEL, extra=extra) as service, same_work(service):
        [engine] = engines_of(service)
        deadline = time.monotonic() + 40
        while engine_state(model_home, service)["speed"] is None and time.monotonic() < deadline:
            time.sleep(0.2)
        assert engine_state(model_home, service)["slow"] is False
        with slowed(engine):
            state = await_slow(model_home, service, slow=True)
            assert state["pid"] == engine.pid  # slow is no reason to replace it
            assert 0 < state["speed"] < 0.5
            shown = run_program(model_home, "status", "--port", service.url.rsplit(":", 1)[1]).stdout
            assert "slow: " in shown
            metrics = httpx.get(f"{service.url}/metrics").text
            assert f'llamafile_engine_slow{{model="{MODEL}",engine="{MODEL}"}} 1' in metrics
            assert "llamafile_engine_speed_ratio{" in metrics
        await_slow(model_home, service, slow=False)
        assert any("is slow" in line for line in service.errors)
        assert any("as fast again" in line for line in service.errors)
