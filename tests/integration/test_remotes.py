"""Remote engines beside local ones, on the real engine: checked, refused, lost and taken back."""

from __future__ import annotations

import functools
import json
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.fake_engine import __file__ as FAKE
from tests.support.golden import golden_cosine
from tests.support.remotes import (
    KEY,
    MODEL,
    Load,
    await_remote,
    bare_engine,
    free_port,
    members,
    peer,
    program,
    remote_of,
    serving,
    status,
    until,
    write_settings,
)
from tests.support.reranker import ANSWERS, fit_reranker
from tests.support.service import Service, run_program, running_service


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
    [pid] = {c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr[1:] == (port,)}
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


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_a_server_at_an_ipv6_address_behind_a_prefix_and_a_key(
    model_home: Path, minilm: Path, tmp_path: Path
) -> None:
    """The key is a variable's, and shown nowhere. A wrong one is refused by the server itself."""
    port = free_port()
    url = f"http://[::1]:{port}/llm"
    flags = ["--host", "::1", "--api-prefix", "/llm", "--api-key", KEY]
    remotes = f'[{{url = "{url}", key_env = "GPU_BOX_KEY"}}]'
    with program(*bare_engine(minilm, port, *flags), port=port, url=url):
        with serving(model_home, tmp_path, remotes, replicas=0, GPU_BOX_KEY=KEY) as local:
            assert list(members(local)) == [f"[::1]:{port}/llm"]
            reply = httpx.post(f"{local.url}/v1/embeddings", json={"input": "hello world"}, timeout=30)
            assert golden_cosine("hello world", reply.json()["data"][0]["embedding"]) >= 0.999
            said = run_program(model_home, "status", "--json", "--port", local.url.rsplit(":", 1)[1]).stdout
            assert "the variable GPU_BOX_KEY" in said
            assert KEY not in said + "".join(local.errors)
        with serving(model_home, tmp_path, remotes, GPU_BOX_KEY=KEY[::-1]) as local:
            assert "it refuses us (401)" in await_remote(local, "failed")["cause"]


def test_a_changed_list_of_remotes_is_taken_at_sighup(model_home: Path, minilm: Path, tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    with (
        program(*bare_engine(minilm, port), port=port),
        program(*bare_engine(minilm, other), port=other),
        serving(model_home, tmp_path, "[]") as local,
    ):
        assert not [name for name in members(local) if ":" in name]
        with Load(local.url) as load:
            for remotes in ([port], [other], [port, other], []):
                named = ", ".join(f'"http://127.0.0.1:{each}"' for each in remotes)
                write_settings(tmp_path, f"[{named}]", 1)
                local.process.send_signal(signal.SIGHUP)
                wanted = {f"127.0.0.1:{each}" for each in remotes}
                until(functools.partial(serves, local, wanted))
            before = load.answered
            until(lambda: load.answered > before + 3)
        assert load.errors == []


def serves(service: Service, remotes: set[str]) -> bool:
    return ready_remotes(service) == remotes


def ready_remotes(service: Service) -> set[str]:
    return {name for name, each in members(service).items() if ":" in name and each["state"] == "ready"}


@pytest.mark.parametrize("kind", ["peer", "bare"])
def test_reranking_goes_to_a_remote(minilm: Path, tmp_path: Path, kind: str) -> None:
    reranker = fit_reranker(minilm, tmp_path / "tiny-reranker.gguf")
    file, home, port = tmp_path / "local.toml", tmp_path / "home", free_port()
    file.write_text(f'[models."tiny-reranker"]\nreplicas = 0\nremote = ["http://127.0.0.1:{port}"]\n')
    remote = (
        running_service(tmp_path / "theirs", "--rerank", str(reranker), "--port", str(port))
        if kind == "peer"
        else program(*bare_engine(reranker, port, "--rerank", "--pooling", "rank"), port=port)
    )
    extra = {"LLAMAFILE_MGR_CONFIG": str(file)}
    with remote, running_service(home, "--rerank", str(reranker), extra=extra) as local:
        assert psutil.Process(local.process.pid).children(recursive=True) == []
        for number, question in enumerate(ANSWERS):
            body = {"query": question, "documents": list(ANSWERS.values())}
            reply = httpx.post(f"{local.url}/v1/rerank", json=body, timeout=30)
            assert reply.json()["results"][0]["index"] == number, reply.text


def test_bulk_jobs_use_remotes_unless_they_must_be_exact(
    model_home: Path, minilm: Path, tmp_path: Path
) -> None:
    port = free_port()
    source = tmp_path / "in.txt"
    source.write_text("hello world\n" + "".join(f"text {n}\n" for n in range(60)))
    extra = {"LLAMAFILE_MGR_CONFIG": str(write_settings(tmp_path, f'["http://127.0.0.1:{port}"]', 0))}
    words = ["embed", "--model", MODEL, str(source), "--own", "--json", "-o"]
    with program(*bare_engine(minilm, port), port=port):
        made = run_program(model_home, *words, str(tmp_path / "out.jsonl"), extra=extra)
        assert made.returncode == 0, made.stderr
        assert json.loads(made.stdout)["exact"] is False
        exact = run_program(model_home, *words, str(tmp_path / "exact.jsonl"), "--exact", extra=extra)
        assert "remotes take no part in what measures or repeats to the last bit" in exact.stderr
        assert exact.returncode != 0
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert golden_cosine("hello world", first["embedding"]) >= 0.999
    write_settings(tmp_path, f'["http://127.0.0.1:{port}"]', 1)
    alone = run_program(model_home, *words, str(tmp_path / "alone.jsonl"), "--exact", extra=extra)
    assert json.loads(alone.stdout)["exact"] is True
    scale = ["bench", MODEL, "--scale", "--nodes", "1", "--seconds", "1", "--json"]
    measured = run_program(model_home, *scale, extra=extra)
    assert measured.returncode == 0, measured.stderr
    assert "its remotes take no part" in measured.stderr


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
