"""``serve`` on the real engine: it becomes ready only when it is right, answers, and ends without a trace."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.golden import GOLDEN, golden_cosine
from tests.support.llamafiles import pack_embedded
from tests.support.service import STOP_SECONDS, Service, environment, program, run_program, running_service


def engines_of(service: Service) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children(recursive=True)


def test_ready_means_golden_vectors(service: Service) -> None:
    assert httpx.get(f"{service.url}/health").json()["status"] == "ok"
    ready = httpx.get(f"{service.url}/ready")
    assert ready.status_code == 200
    assert {m["model"]: m["ready"] for m in ready.json()["models"]} == {
        "all-minilm-l6-v2": True,
        "tiny-generator": True,
    }
    body = httpx.post(f"{service.url}/v1/embeddings", json={"input": list(GOLDEN)}).json()
    for text, item in zip(GOLDEN, body["data"], strict=True):
        assert golden_cosine(text, item["embedding"]) >= 0.999


def test_both_loopback_addresses_answer(service: Service) -> None:
    port = int(service.url.rsplit(":", 1)[1])
    families = {info[0] for info in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "[::1]")):
        if family in families:
            assert httpx.get(f"http://{host}:{port}/health").status_code == 200


def test_the_vector_space_is_named_everywhere(service: Service) -> None:
    reply = httpx.post(f"{service.url}/embedding", json={"content": "x"})
    models = httpx.get(f"{service.url}/v1/models").json()["data"]
    spaces = {model["id"]: model["meta"]["vector_space"] for model in models}
    assert len(reply.headers["x-vector-space"]) == 16
    assert spaces == {"all-minilm-l6-v2": reply.headers["x-vector-space"], "tiny-generator": None}


def test_a_name_that_is_not_served_is_answered_and_said(service: Service) -> None:
    headers = httpx.post(f"{service.url}/v1/embeddings", json={"input": "x", "model": "ada\r\nx: y"}).headers
    assert headers["x-model"] == "all-minilm-l6-v2"
    assert headers["x-model-substituted-for"] == "ada??x: y"


def test_a_stream_arrives_as_it_is_made(service: Service) -> None:
    """Held back, all would come as one piece; a proxy that was not run for a while joins what came meanwhile,
    so it may try again."""
    assert max(pieces_of_a_stream(service) for _ in range(5)) > 10


def pieces_of_a_stream(service: Service) -> int:
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 400,
        "ignore_eos": True,
        "stream": True,
    }
    with httpx.stream("POST", f"{service.url}/v1/chat/completions", json=body, timeout=60) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        pieces = [piece for piece in reply.iter_raw() if piece]
    assert b"".join(pieces).count(b"data: {") > 100
    return len(pieces)


def test_a_client_that_leaves_frees_the_engine(service: Service) -> None:
    body = {"prompt": "x", "n_predict": 100_000, "stream": True, "ignore_eos": True}
    for _ in range(4):  # more than the engine has slots: each must be given back
        with httpx.stream("POST", f"{service.url}/completion", json=body, timeout=30) as reply:
            next(reply.iter_lines())
    reply = httpx.post(f"{service.url}/completion", json={"prompt": "x", "n_predict": 2}, timeout=30)
    assert reply.json()["tokens_predicted"] == 2


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "message"),
    [
        ("POST", "/v1/embeddings", "{", 400, "not JSON"),
        ("POST", "/v1/embeddings", "", 400, "not JSON"),
        ("POST", "/v1/embeddings", "[]", 400, "must be a JSON object"),
        ("POST", "/v1/embeddings", '{"input": []}', 400, "empty list"),
        ("POST", "/v1/embeddings", '{"model": 3, "input": "x"}', 400, "'model' must be a text"),
        ("POST", "/embedding", '{"content": 3}', 400, "a text or a list of texts"),
        ("POST", "/tokenize", '{"content": 3}', 400, "must be a text"),
        ("POST", "/v1/chat/completions", '{"messages": 3}', 400, "the engine refused the request"),
        ("POST", "/v1/chat/completions", '{"model": "all-minilm-l6-v2"}', 400, "cannot generate text"),
        ("POST", "/v1/embeddings", '{"model": "tiny-generator", "input": "x"}', 400, "cannot embed"),
        ("GET", "/v1/embeddings", "", 405, "takes POST"),
        ("GET", "/nothing", "", 404, "there is no route"),
        ("DELETE", "/health", "", 405, "takes GET"),
    ],
)
def test_wrong_requests(
    service: Service, method: str, path: str, content: str, status: int, message: str
) -> None:
    reply = httpx.request(method, service.url + path, content=content)
    assert reply.status_code == status
    assert message in reply.json()["error"]["message"]
    source = "engine" if message.startswith("the engine") else "llamafile-mgr"
    assert reply.json()["error"]["src"] == source
    assert reply.headers["x-request-id"]


def test_nulls_and_unknown_fields_are_dropped(service: Service) -> None:
    body = {"input": ["a"], "encoding_format": None, "output_dtype": None, "user": "u", "truncation": True}
    reply = httpx.post(f"{service.url}/v1/embeddings", json=body)
    assert golden_cosine("a", reply.json()["data"][0]["embedding"]) >= 0.999


@pytest.mark.parametrize("name", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "0.0.0.0"])
def test_foreign_hosts_and_origins_are_refused(service: Service, name: str) -> None:
    assert httpx.get(f"{service.url}/health", headers={"host": name}).status_code == 403
    assert httpx.get(f"{service.url}/health", headers={"origin": f"http://{name}"}).status_code == 403


def test_a_body_over_the_limit_is_refused(model_home: Path) -> None:
    limit = {"LLAMAFILE_MGR_SERVE_MAX_BODY_BYTES": "1000"}
    with running_service(model_home, "all-minilm-l6-v2", extra=limit) as service:
        announced = httpx.post(f"{service.url}/v1/embeddings", json={"input": "x" * 2000})
        chunked = httpx.post(f"{service.url}/v1/embeddings", content=iter([b"x" * 600] * 3))
        assert [announced.status_code, chunked.status_code] == [413, 413]
        assert httpx.post(f"{service.url}/v1/embeddings", json={"input": "x"}).status_code == 200


def test_without_a_model_for_the_role_the_answer_says_what_to_start(
    model_home: Path, tiny_generator: Path
) -> None:
    with running_service(model_home, "all-minilm-l6-v2") as service:
        reply = httpx.post(f"{service.url}/completion", json={"prompt": "x"})
        assert reply.status_code == 400
        assert "llamafile-mgr serve --generate MODEL" in reply.json()["error"]["message"]
    with running_service(model_home, str(tiny_generator)) as service:
        reply = httpx.post(f"{service.url}/v1/embeddings", json={"input": "x"})
        assert reply.status_code == 400
        assert "llamafile-mgr serve --embed MODEL" in reply.json()["error"]["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(model_home: Path, tiny_generator: Path, number: signal.Signals) -> None:
    with running_service(model_home, "all-minilm-l6-v2", str(tiny_generator)) as service:
        engines = engines_of(service)
        assert len(engines) >= 2
        assert service.stop(number) == 0
        assert not psutil.wait_procs(engines, timeout=0)[1]


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_it_serves_on_and_ends_well_when_nobody_reads_what_it_says(model_home: Path, form: list[str]) -> None:
    argv = program("serve", "all-minilm-l6-v2", "--port", "0", *form)
    with subprocess.Popen(
        argv, env=environment(model_home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            url = re.findall(r"http://[0-9.:]+", process.stdout.readline())[0]
            process.stdout.close()
            reply = httpx.post(f"{url}/v1/embeddings", json={"input": "hello world"}, timeout=45)
            assert golden_cosine("hello world", reply.json()["data"][0]["embedding"]) >= 0.999
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_SECONDS) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_a_signal_while_loading_ends_everything(model_home: Path) -> None:
    with running_service(model_home, "all-minilm-l6-v2", ready=False) as service:
        deadline = time.monotonic() + 10
        while not (engines := engines_of(service)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engines
        assert service.stop(signal.SIGTERM) == 0
        assert not psutil.wait_procs(engines, timeout=0)[1]


def test_engines_die_with_a_killed_manager(model_home: Path) -> None:
    with running_service(model_home, "all-minilm-l6-v2") as service:
        engines = engines_of(service)
        service.process.kill()
        service.process.wait(5)
        assert not psutil.wait_procs(engines, timeout=2)[1]


def test_a_killed_engine_is_replaced_and_no_embedding_call_fails(model_home: Path) -> None:
    with running_service(model_home, "all-minilm-l6-v2") as service:
        for engine in engines_of(service):
            engine.kill()
        reply = httpx.post(
            f"{service.url}/v1/embeddings", json={"input": "hello world", "use_cache": False}, timeout=30
        )
        assert golden_cosine("hello world", reply.json()["data"][0]["embedding"]) >= 0.999
        [state] = httpx.get(f"{service.url}/ready").json()["models"]
        assert all(engine["restarts"] == 1 for engine in state["engines"])


def test_a_packed_llamafile_is_recognised_by_its_name(minilm: Path, tmp_path: Path) -> None:
    packed = pack_embedded(minilm, tmp_path / "all-minilm-l6-v2.llamafile", "--host", "0.0.0.0", "-c", "64")
    with running_service(tmp_path / "home", "--embed", str(packed)) as service:
        [model] = httpx.get(f"{service.url}/v1/models").json()["data"]
        assert (model["id"], model["meta"]["dimensions"]) == ("all-minilm-l6-v2", 384)
        connections = [c for engine in engines_of(service) for c in engine.net_connections()]
        listening = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}  # its embedded arguments asked for every address
        long = httpx.post(f"{service.url}/v1/embeddings", json={"input": "x " * 300}, timeout=30)
        assert long.json()["usage"]["prompt_tokens"] == 302


def test_engines_refuse_those_who_do_not_hold_the_key(service: Service) -> None:
    for engine in engines_of(service):
        ports = {c.laddr.port for c in engine.net_connections() if c.status == psutil.CONN_LISTEN}
        for port in ports:
            for path in ("/v1/embeddings", "/completion"):
                reply = httpx.post(f"http://127.0.0.1:{port}{path}", json={"input": "x", "prompt": "x"})
                assert reply.status_code == 401
        words = engine.cmdline()
        secret = Path(words[words.index("--api-key-file") + 1]).read_text().strip()
        assert len(secret) >= 32
        assert secret not in " ".join([*words, *engine.environ().values()])


def test_events_are_json_lines(model_home: Path) -> None:
    with running_service(model_home, "all-minilm-l6-v2", ready=False) as service:
        ready = service.await_event("ready")
        served = [{"model": "all-minilm-l6-v2", "role": "embed", "ready": True}]
        models = {"embed": "all-minilm-l6-v2"}
        assert ready == {"event": "ready", "url": service.url, "models": models, "served": served}
        assert service.stop() == 0
        service.await_event("stopping")
        assert json.dumps(ready)


def test_a_model_that_is_served_cannot_be_removed(model_home: Path, service: Service) -> None:
    assert httpx.get(f"{service.url}/ready").status_code == 200
    result = run_program(model_home, "rm", "all-minilm-l6-v2")
    assert result.returncode == 8
    assert "use" in result.stderr
    assert run_program(model_home, "list", "--json").stdout.count("all-minilm-l6-v2") >= 1
