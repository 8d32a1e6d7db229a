"""Remote engines beside local ones, on the real engine: checked, refused, lost and taken back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.fake_engine import __file__ as FAKE
from tests.support.golden import golden_cosine
from tests.support.service import Service, environment, run_program, running_service

MODEL = "all-minilm-l6-v2"
KEY = "a-key-of-thirty-two-characters-ok"
SETTINGS = "[serve]\ncache_bytes = 0\nliveness_seconds = 2\n"


@contextmanager
def serving(
    home: Path, folder: Path, remotes: str, *, replicas: int = 1, ready: bool = True
) -> Iterator[Service]:
    """Run a service whose pool holds ``remotes``, a TOML list."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "local.toml"
    file.write_text(f'{SETTINGS}[models."{MODEL}"]\nthreads = 1\nreplicas = {replicas}\nremote = {remotes}\n')
    with running_service(home, MODEL, extra={"LLAMAFILE_MGR_CONFIG": str(file)}, ready=ready) as service:
        yield service


@contextmanager
def peer(home: Path, folder: Path, settings: str = "", port: int = 0) -> Iterator[Service]:
    """Run another service of ours as a remote."""
    file = folder / "peer.toml"
    file.write_text(f'{SETTINGS}{settings}\n[models."{MODEL}"]\nthreads = 1\nreplicas = 1\n')
    arguments = [MODEL, *(["--port", str(port)] if port else [])]
    with running_service(home, *arguments, extra={"LLAMAFILE_MGR_CONFIG": str(file)}) as service:
        yield service


@contextmanager
def program(*argv: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end; returns when it listens."""
    process = subprocess.Popen(
        [sys.executable, *argv], env=environment(Path(os.devnull)), stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait(10)


def bare_engine(minilm: Path, port: int, *flags: str) -> list[str]:
    words = ["-m", "llamafile_mgr.engines.embedded", "-m", str(minilm), "--embedding", "--pooling", "mean"]
    return [
        *words,
        "--port",
        str(port),
        "-c",
        "2048",
        "-np",
        "4",
        "-b",
        "512",
        "-ub",
        "512",
        "-t",
        "1",
        *flags,
    ]


def _listens(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def members(service: Service) -> dict[str, dict[str, Any]]:
    """Return the pool's members by name, as ``/ready`` tells of them."""
    [model] = httpx.get(f"{service.url}/ready").json()["models"]
    return {engine["name"]: engine for engine in model["engines"]}


def remote_of(service: Service) -> dict[str, Any]:
    return next(member for name, member in members(service).items() if ":" in name)


def await_remote(service: Service, state: str) -> dict[str, Any]:
    until(lambda: remote_of(service)["state"] == state)
    return remote_of(service)


def status(home: Path, service: Service) -> dict[str, dict[str, Any]]:
    result = run_program(home, "status", "--json", "--port", service.url.rsplit(":", 1)[1])
    [model] = json.loads(result.stdout)["models"]
    return {engine["name"]: engine for engine in model["engines"]}


class Load:
    """Calls that go on until they are stopped; every reply is looked at."""

    def __init__(self, url: str, callers: int = 3) -> None:
        self.errors: list[str] = []
        self.answered = 0
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,), daemon=True) for n in range(callers)]

    def _call(self, number: int) -> None:
        with httpx.Client(timeout=60) as client:
            count = 0
            while not self._stop.is_set():
                count += 1
                texts = ["hello world", *(f"caller {number} text {count} {n}" for n in range(3))]
                reply = client.post(f"{self._url}/v1/embeddings", json={"input": texts})
                if reply.status_code != 200:
                    self.errors.append(f"{reply.status_code} {reply.text[:300]}")
                elif golden_cosine("hello world", reply.json()["data"][0]["embedding"]) < 0.999:
                    self.errors.append("a wrong vector")
                else:
                    self.answered += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def test_a_peer_shares_the_work_and_its_death_costs_no_error(model_home: Path, tmp_path: Path) -> None:
    port = free_port()
    with (
        peer(model_home, tmp_path, port=port) as remote,
        serving(model_home, tmp_path, f'["http://localhost:{port}"]') as local,
    ):
        await_remote(local, "ready")
        with Load(local.url) as load:
            until(lambda: status(model_home, local)[f"localhost:{port}"]["served"] > 3)
            remote.process.kill()
            until(lambda: remote_of(local)["state"] in ("backing-off", "failed"))
            assert "localhost" in remote_of(local)["cause"]
            before = load.answered
            until(lambda: load.answered > before + 3)
        assert load.errors == []
        shown = run_program(model_home, "status", "--port", local.url.rsplit(":", 1)[1]).stdout
        assert f"remote: http://localhost:{port}" in shown
        assert "lost because: " in shown


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_bare_server_that_dies_or_hangs_costs_no_error(
    model_home: Path, minilm: Path, tmp_path: Path, number: signal.Signals
) -> None:
    port = free_port()
    with (
        program(*bare_engine(minilm, port), port=port) as process,
        serving(model_home, tmp_path, f'["http://127.0.0.1:{port}"]') as local,
    ):
        await_remote(local, "ready")
        with Load(local.url) as load:
            until(lambda: status(model_home, local)[f"127.0.0.1:{port}"]["served"] > 3)
            process.send_signal(number)
            until(lambda: remote_of(local)["state"] != "ready")
            before = load.answered
            until(lambda: load.answered > before + 3)
            if number == signal.SIGSTOP:
                process.send_signal(signal.SIGCONT)
                await_remote(local, "ready")
        assert load.errors == []


def test_another_models_vectors_are_refused(model_home: Path, tmp_path: Path) -> None:
    port = free_port()
    with program(FAKE, "--vectors", "wrong", "--", "--port", str(port), port=port):
        with serving(model_home, tmp_path, f'["http://127.0.0.1:{port}"]') as local:
            remote = await_remote(local, "failed")
            assert "its vectors are wrong" in remote["cause"]
            assert "with the model's known vectors" in remote["cause"]
            reply = httpx.post(f"{local.url}/v1/embeddings", json={"input": ["hello world"] * 3})
            assert golden_cosine("hello world", reply.json()["data"][0]["embedding"]) >= 0.999
            assert status(model_home, local)[f"127.0.0.1:{port}"]["served"] == 0
        with serving(model_home, tmp_path, f'["http://127.0.0.1:{port}"]', replicas=0, ready=False) as local:
            assert local.process.wait(30) == 12
    assert "its vectors are wrong" in "".join(local.errors)


def test_a_model_that_changes_behind_its_address_gives_no_vector(
    model_home: Path, minilm: Path, tmp_path: Path
) -> None:
    port = free_port()
    with (
        program(*bare_engine(minilm, port), port=port),
        serving(model_home, tmp_path, f'["http://127.0.0.1:{port}"]', replicas=0) as local,
    ):
        first = httpx.post(f"{local.url}/v1/embeddings", json={"input": "hello world"})
        assert golden_cosine("hello world", first.json()["data"][0]["embedding"]) >= 0.999
        local.process.send_signal(signal.SIGSTOP)  # it must not see the change happen
        program_of(port).kill()
        with program(FAKE, "--vectors", "wrong", "--", "--port", str(port), port=port):
            local.process.send_signal(signal.SIGCONT)
            reply = httpx.post(f"{local.url}/v1/embeddings", json={"input": "hello"}, timeout=50)
            assert reply.status_code == 503
            assert "its vectors are wrong" in reply.text


def program_of(port: int) -> psutil.Process:
    connections = psutil.net_connections("tcp")
    [pid] = {c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
    return psutil.Process(pid)


def test_a_pool_of_remotes_alone(model_home: Path, minilm: Path, tmp_path: Path) -> None:
    port = free_port()
    with (
        program(*bare_engine(minilm, port), port=port),
        serving(model_home, tmp_path, f'["http://127.0.0.1:{port}"]', replicas=0) as local,
    ):
        assert psutil.Process(local.process.pid).children(recursive=True) == []
        assert list(members(local)) == [f"127.0.0.1:{port}"]
        reply = httpx.post(f"{local.url}/v1/embeddings", json={"input": ["hello world"]})
        assert golden_cosine("hello world", reply.json()["data"][0]["embedding"]) >= 0.999
