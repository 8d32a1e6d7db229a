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
        restart = run_program(model_home, "restart", MODEL, "--port", local.url.rsplit(":", 1)[1])
        assert restart.returncode == 0, restart.stderr
        assert remote_of(local)["state"] == "ready"
        reply = httpx.post(f"{local.url}/v1/embeddings", json={"input": ["hello world"]})
        assert golden_cosine("hello world", reply.json()["data"][0]["embedding"]) >= 0.999


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``ca.pem``, and ``cert.pem`` and ``key.pem`` for this machine signed by it."""
    folder = tmp_path_factory.mktemp("authority")
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    for argv in (
        [*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority"],
        [*new, *signed, *names, "-keyout", "key.pem", "-out", "cert.pem"],
    ):
        subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    return folder


def test_tls_and_keys_are_checked(model_home: Path, tmp_path: Path, authority: Path) -> None:
    keys = {"right": KEY, "wrong": KEY[::-1], "open": KEY}
    for name, key in keys.items():
        (tmp_path / name).write_text(f"user {key}\n")
        (tmp_path / name).chmod(0o644 if name == "open" else 0o600)
    settings = f'tls_certificate = "{authority}/cert.pem"\ntls_key = "{authority}/key.pem"'
    port = free_port()
    with peer(model_home, tmp_path, f'{settings}\nkeys_file = "{tmp_path}/right"', port=port):

        def table(host: str, key: str, *, trusted: bool = True) -> str:
            ca = f', ca_file = "{authority}/ca.pem"' if trusted else ""
            return f'{{url = "https://{host}:{port}", key_file = "{tmp_path}/{key}"{ca}}}'

        with serving(model_home, tmp_path, f"[{table('localhost', 'right')}]", replicas=0) as local:
            reply = httpx.post(f"{local.url}/v1/embeddings", json={"input": "hello world"})
            assert golden_cosine("hello world", reply.json()["data"][0]["embedding"]) >= 0.999
            said = run_program(model_home, "status", "--json", "--port", local.url.rsplit(":", 1)[1]).stdout
            assert KEY not in said + "".join(local.errors) + " ".join(
                psutil.Process(local.process.pid).cmdline()
            )
        causes = {
            f"localhost:{port}": (table("localhost", "right", trusted=False), "certificate"),
            f"127.0.0.1:{port}": (
                table("127.0.0.1", "wrong"),
                "it refuses us (401): this API key is not known",
            ),
            "localhost:1": (
                f'{{url = "http://localhost:1", key_file = "{tmp_path}/open"}}',
                "others can read",
            ),
            "localhost:2": ('{url = "http://localhost:2", key_env = "NO_SUCH"}', "NO_SUCH"),
            "localhost:3": ('"http://localhost:3"', "cannot reach the engine at localhost:3"),
        }
        remotes = ", ".join(remote for remote, _ in causes.values())
        with serving(model_home, tmp_path, f"[{remotes}]") as local:
            until(lambda: all(members(local)[name]["cause"] for name in causes))
            for name, (_, cause) in causes.items():
                assert cause in members(local)[name]["cause"]
            assert httpx.post(f"{local.url}/v1/embeddings", json={"input": "x"}).status_code == 200


def test_another_vector_space_and_circles_are_refused(model_home: Path, minilm: Path, tmp_path: Path) -> None:
    port, bare = free_port(), free_port()
    other = tmp_path / f"{MODEL}.gguf"
    other.write_bytes(minilm.read_bytes() + bytes(32))  # the same vectors of other bytes: another space
    with (
        program(*bare_engine(minilm, bare), port=bare),
        running_service(tmp_path / "home", str(other), "--port", str(port)),
        serving(model_home, tmp_path / "middle", f'["http://127.0.0.1:{bare}"]', replicas=0) as middle,
        serving(model_home, tmp_path, f'["http://127.0.0.1:{port}", "{middle.url}"]') as local,
    ):
        names = [f"127.0.0.1:{port}", middle.url.removeprefix("http://")]
        until(lambda: all(members(local)[name]["state"] == "failed" for name in names))
        assert "its vector space is" in members(local)[names[0]]["cause"]
        assert "serve the same file" in members(local)[names[0]]["cause"]
        assert "passes calls on to remotes of its own" in members(local)[names[1]]["cause"]


def test_generation_goes_to_a_remote(model_home: Path, tiny_generator: Path, tmp_path: Path) -> None:
    file = tmp_path / "local.toml"
    with running_service(model_home, str(tiny_generator)) as remote:
        file.write_text(f'[models."tiny-generator"]\nreplicas = 0\nremote = ["{remote.url}"]\n')
        extra = {"LLAMAFILE_MGR_CONFIG": str(file)}
        with running_service(model_home, str(tiny_generator), extra=extra) as local:
            assert psutil.Process(local.process.pid).children(recursive=True) == []
            body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 8, "ignore_eos": True}
            whole = httpx.post(f"{local.url}/v1/chat/completions", json=body, timeout=30)
            assert whole.json()["usage"]["completion_tokens"] == 8
            with httpx.stream(
                "POST", f"{local.url}/v1/chat/completions", json={**body, "stream": True}, timeout=30
            ) as reply:
                lines = [line for line in reply.iter_lines() if line.startswith("data: ")]
            assert lines[-1] == "data: [DONE]"
            bad = httpx.post(f"{local.url}/v1/chat/completions", json={"messages": 3}, timeout=30)
            assert bad.status_code == 400


def test_plan_shows_remotes_and_needs_no_memory_for_them(model_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        f'[models."{MODEL}"]\nreplicas = 0\nremote = [{{url = "http://gpu-box:8080", key_env = "K"}}]\n'
    )
    extra = {"LLAMAFILE_MGR_CONFIG": str(file)}
    shown = run_program(model_home, "plan", MODEL, extra=extra).stdout
    assert "http://gpu-box:8080" in shown
    assert "remotes serve this model" in shown
    [plan] = json.loads(run_program(model_home, "plan", MODEL, "--json", extra=extra).stdout)["plans"]
    assert (plan["replicas"], plan["memory"]) == (0, None)
    assert plan["remotes"][0]["key"] == "the variable K"
