"""What the tests of remote engines run: services with remotes, the remotes themselves, and calls to them."""

from __future__ import annotations

import json
import os
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

from tests.support.golden import golden_cosine
from tests.support.service import Service, environment, run_program, running_service

MODEL = "all-minilm-l6-v2"
KEY = "a-key-of-thirty-two-characters-ok"
SETTINGS = "[serve]\ncache_bytes = 0\nliveness_seconds = 2\n"


@contextmanager
def serving(
    home: Path, folder: Path, remotes: str, *, replicas: int = 1, ready: bool = True, **extra: str
) -> Iterator[Service]:
    """Run a service whose pool holds ``remotes``, a TOML list."""
    variables = {"LLAMAFILE_MGR_CONFIG": str(write_settings(folder, remotes, replicas)), **extra}
    with running_service(home, MODEL, extra=variables, ready=ready) as service:
        yield service


def write_settings(folder: Path, remotes: str, replicas: int) -> Path:
    """Write the settings of a service whose pool holds ``remotes``, a TOML list, and return their file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "local.toml"
    file.write_text(f'{SETTINGS}[models."{MODEL}"]\nthreads = 1\nreplicas = {replicas}\nremote = {remotes}\n')
    return file


@contextmanager
def peer(home: Path, folder: Path, settings: str = "", port: int = 0) -> Iterator[Service]:
    """Run another service of ours as a remote."""
    file = folder / "peer.toml"
    file.write_text(f'{SETTINGS}{settings}\n[models."{MODEL}"]\nthreads = 1\nreplicas = 1\n')
    arguments = [MODEL, *(["--port", str(port)] if port else [])]
    with running_service(home, *arguments, extra={"LLAMAFILE_MGR_CONFIG": str(file)}) as service:
        yield service


@contextmanager
def program(*argv: str, port: int, url: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end; returns when it listens, at ``url`` or else this machine's ``port``."""
    process = subprocess.Popen(
        [sys.executable, *argv], env=environment(Path(os.devnull)), stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: process.poll() is not None or _listens(url or f"http://127.0.0.1:{port}"))
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


def _listens(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=1).status_code in (200, 401)
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
