"""Engines that misbehave in ways a real one cannot be made to: each ends in a known state with its cause."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.golden import golden_cosine
from tests.support.llamafiles import READY_VECTORS, pack_fake
from tests.support.service import Service, read_models, run_program, running_service

MODEL = "all-minilm-l6-v2"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home whose model has one engine and little patience."""
    patience = "[serve]\nload_stall_seconds = 2\nliveness_seconds = 2\n"
    (tmp_path / "config.toml").write_text(f'{patience}[models."{MODEL}"]\nreplicas = 1\nthreads = 1\n')
    return tmp_path


def embed(service: Service, text: str = "hello world") -> httpx.Response:
    return httpx.post(f"{service.url}/v1/embeddings", json={"input": text}, timeout=30)


def embed_or_fail(service: Service) -> None:
    """Embed for a caller who does not care."""
    with contextlib.suppress(httpx.HTTPError):
        embed(service)


def engine_state(home: Path, service: Service) -> dict[str, Any]:
    """Return what ``status`` says of the one engine."""
    [model] = read_models(home, service)
    [engine] = model["engines"]
    assert isinstance(engine, dict)
    return engine


def test_a_flood_of_log_blocks_nothing_and_is_rotated(minilm: Path, home: Path) -> None:
    packed = pack_fake(minilm, home / f"{MODEL}.llamafile", "--flood", "100")
    with running_service(home, "--embed", str(packed)) as service:
        assert golden_cosine("hello world", embed(service).json()["data"][0]["embedding"]) >= 0.999
        logs = home / "state" / "logs"
        deadline = time.monotonic() + 30
        while not list(logs.glob("*.1")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        assert sum(file.stat().st_size for file in logs.iterdir()) <= 9 * 1024 * 1024


def test_an_engine_that_ignores_signals_is_killed(minilm: Path, home: Path) -> None:
    packed = pack_fake(minilm, home / f"{MODEL}.llamafile", "--ignore-signals")
    with running_service(home, "--embed", str(packed)) as service:
        engines = psutil.Process(service.process.pid).children(recursive=True)
        assert service.stop() == 0
        assert not psutil.wait_procs(engines, timeout=0)[1]


def test_what_an_engine_forked_ends_with_it(minilm: Path, home: Path) -> None:
    packed = pack_fake(minilm, home / f"{MODEL}.llamafile", "--fork")
    with running_service(home, "--embed", str(packed)) as service:
        family = psutil.Process(service.process.pid).children(recursive=True)
        assert len(family) == 2
        assert service.stop() == 0
        assert not psutil.wait_procs(family, timeout=2)[1]


def test_a_second_signal_does_not_wait_for_calls(minilm: Path, home: Path) -> None:
    packed = pack_fake(minilm, home / f"{MODEL}.llamafile", "--hang-after", str(READY_VECTORS))
    extra = {"LLAMAFILE_MGR_SERVE_DRAIN_SECONDS": "60", "LLAMAFILE_MGR_SERVE_LIVENESS_SECONDS": "60"}
    with running_service(home, "--embed", str(packed), extra=extra) as service:
        call = threading.Thread(target=embed_or_fail, args=(service,))
        call.start()
        time.sleep(0.5)
        service.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert service.process.poll() is None  # it waits for the call
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(20) == 0
        call.join(5)


def test_a_crash_loop_ends_in_a_cause_and_a_503(minilm: Path, home: Path) -> None:
    # The first call after it was ready kills it, every time.
    packed = pack_fake(minilm, home / f"{MODEL}.llamafile", "--crash-after", str(READY_VECTORS))
    with running_service(home, "--embed", str(packed)) as service:
        deadline = time.monotonic() + 45
        while time.monotonic() < deadline:
            reply = embed(service)
            if reply.status_code == 503:
                break
            if reply.status_code == 200:
                continue  # its last vector before it crashes: ready took one less
            assert reply.status_code == 422
            assert "engines died while they computed this" in reply.json()["error"]["message"]
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) > 1
        assert "exit code 9" in reply.json()["error"]["message"]
        state = engine_state(home, service)
        assert state["state"] == "backing-off"
        assert state["retry_seconds"] > 0
        assert [each["state"] for each in state["transitions"]][:4] == [
            "starting",
            "warming",
            "ready",
            "backing-off",
        ]
        assert all(abs(each["at"] - time.time()) < 120 for each in state["transitions"])
        shown = run_program(home, "status").stdout
        assert "died because: it ended with exit code 9" in shown
        assert re.search(r"next start: in \d+ s", shown)
        assert re.search(r"states: .*\d\d:\d\d:\d\d ready, \d\d:\d\d:\d\d backing-off$", shown, re.M)


def test_an_unknown_flag_is_dropped_once_and_said(minilm: Path, home: Path) -> None:
    packed = pack_fake(minilm, home / f"{MODEL}.llamafile", "--refuse-flag=--no-webui")
    with running_service(home, "--embed", str(packed)) as service:
        assert embed(service).status_code == 200
        state = engine_state(home, service)
        assert state["restarts"] == 1
        step = "started without --no-webui, which this engine does not know"
        assert state["steps"] == [step]
        shown = run_program(home, "status").stdout
        assert f"{MODEL}: changed: {step}" in shown
        assert f"{MODEL}: died last because: this engine does not know the flag --no-webui" in shown


@pytest.mark.timeout(150)
def test_an_engine_dead_by_a_signal_says_which(minilm: Path, home: Path) -> None:
    packed = pack_fake(minilm, home / f"{MODEL}.llamafile", "--die-by", "SIGSEGV")
    result = run_program(home, "serve", "--port", "0", "--embed", str(packed), seconds=140)
    assert result.returncode == 12
    assert "SIGSEGV" in result.stderr
