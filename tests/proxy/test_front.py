"""The served proxy before fake engines: routing, holding, queues, streams that break, measuring."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ServeConfig
from llamafile_mgr.engines.families import Family
from tests.support.front import FakeModel, RunningFront, running_front

EMBED, GENERATE = FakeModel("e"), FakeModel("g", Role.GENERATE)
FAST: dict[str, Any] = {"drain_seconds": 1.0}


def client(running: RunningFront, **options: object) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=running.url, timeout=20, **options)  # type: ignore[arg-type]


async def test_several_models_of_a_role_need_a_right_name(tmp_path: Path) -> None:
    models = [EMBED, FakeModel("other"), GENERATE]
    async with running_front(tmp_path, models, aliases={"ada": "other"}) as running, client(running) as http:
        for name, status, answered in [
            ("other", 200, "other"),
            ("ada", 200, "other"),
            ("other:latest", 200, "other"),
            ("other:query", 200, "other"),
            ("LLaMA_CPP", 200, "e"),
            ("", 200, "e"),
            (None, 200, "e"),
            ("nonsense", 404, None),
            ("g", 400, None),
        ]:
            reply = await http.post("/v1/embeddings", json={"input": "x", "model": name})
            assert (reply.status_code, reply.headers.get("x-model")) == (status, answered), name
            if status == 200:
                assert reply.json()["model"] == answered
                assert "x-model-substituted-for" not in reply.headers
            if status == 404:
                assert "ask for e or other" in reply.json()["error"]["message"]
                assert reply.headers["x-should-retry"] == "false"
        assert (await http.get("/v1/models/ada")).json()["id"] == "other"
        assert (await http.get("/v1/models/none")).status_code == 404


async def test_one_model_takes_any_name_unless_strict(tmp_path: Path) -> None:
    async with running_front(tmp_path, [EMBED]) as running, client(running) as http:
        reply = await http.post("/api/embed", json={"input": "x", "model": "all-minilm"})
        assert reply.headers["x-model-substituted-for"] == "all-minilm"
        assert reply.json()["model"] == "e"
    strict = ServeConfig(strict_models=True, **FAST)
    async with running_front(tmp_path, [EMBED], strict) as running, client(running) as http:
        assert (await http.post("/v1/embeddings", json={"input": "x", "model": "ada"})).status_code == 404
        assert (await http.post("/v1/embeddings", json={"input": "x", "model": "default"})).status_code == 200


async def test_a_width_that_is_not_given_is_refused(tmp_path: Path) -> None:
    async with running_front(tmp_path, [EMBED]) as running, client(running) as http:
        reply = await http.post("/v1/embeddings", json={"input": "x", "dimensions": 4000})
        assert reply.status_code == 400


async def test_held_calls_are_kept_alive_within_the_clients_timeout(tmp_path: Path) -> None:
    slow = [FakeModel("e", switches="--slow-load 3"), FakeModel("g", Role.GENERATE, "--slow-load 3")]
    announced = {"x-stainless-read-timeout": "1"}
    async with (
        running_front(tmp_path, slow, ready=False) as running,
        httpx.AsyncClient(
            base_url=running.url, timeout=httpx.Timeout(1.0, connect=20), headers=announced
        ) as http,
    ):
        chat = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        whole, streamed, pure = await asyncio.gather(
            http.post("/v1/embeddings", json={"input": "x"}),
            http.post("/v1/chat/completions", json=chat),
            http.post("/api/chat", json=chat),
        )
    assert whole.status_code == 200
    assert whole.content.startswith(b" ")
    assert len(whole.json()["data"][0]["embedding"]) == 384
    assert streamed.text.startswith(": loading\n\n")
    assert streamed.text.endswith("data: [DONE]\n\n")
    # Lines of NDJSON cannot be kept alive: the client hears in time that it should come back.
    assert pure.status_code == 503
    assert isinstance(pure.json()["error"], str)
    assert pure.headers["retry-after"] == "2"
    assert pure.headers["x-should-retry"] == "true"


async def test_a_refusal_after_a_hold_keeps_its_status_or_cuts_the_answer(tmp_path: Path) -> None:
    dying = [FakeModel("e", switches="--slow-load 60"), FakeModel("g", Role.GENERATE, "--slow-load 60")]
    settings = ServeConfig(wait_seconds=1.5, **FAST)
    async with running_front(tmp_path, dying, settings, ready=False) as running, client(running) as http:
        patient = {"x-stainless-read-timeout": "600"}
        for headers in (patient, {}):
            reply = await http.post("/v1/embeddings", json={"input": "x"}, headers=headers)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "not_ready")
        hasty = {"x-stainless-read-timeout": "1"}
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post("/v1/embeddings", json={"input": "x"}, headers=hasty)
        received: list[bytes] = []
        chat = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        with pytest.raises(httpx.RemoteProtocolError):
            await collect(http, "/v1/chat/completions", chat, received, hasty)
        assert b'"code":"not_ready"' in received[-1]


async def test_an_openai_client_never_takes_a_refusal_for_an_answer(tmp_path: Path) -> None:
    dying = [FakeModel("e", switches="--slow-load 60"), FakeModel("g", Role.GENERATE, "--slow-load 60")]
    settings = ServeConfig(wait_seconds=1.5, **FAST)
    async with running_front(tmp_path, dying, settings, ready=False) as running:
        for timeout, error in ((600.0, openai.InternalServerError), (1.0, openai.APIConnectionError)):
            async with openai.AsyncOpenAI(
                base_url=f"{running.url}/v1", api_key="x", timeout=timeout, max_retries=0
            ) as ai:
                with pytest.raises(error):
                    await ai.embeddings.create(model="e", input="x")
                with pytest.raises(error):
                    await ai.chat.completions.create(model="g", messages=[{"role": "user", "content": "x"}])


async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    slow = FakeModel("g", Role.GENERATE, "--word-seconds 0.2 --words 10")
    settings = ServeConfig(queue_items=4, **FAST)
    async with running_front(tmp_path, [slow], settings) as running, client(running) as http:
        body = {"prompt": "x", "stream": True}
        replies = await asyncio.gather(*(http.post("/completion", json=body) for _ in range(12)))
        refused = [reply for reply in replies if reply.status_code == 429]
        assert 0 < len(refused) < 12
        assert all(1 <= int(reply.headers["retry-after"]) <= 120 for reply in refused)
        assert refused[0].json()["error"]["code"] == "busy"
        assert running.supervisor.find("g").calls.queue.items == 0


async def test_a_call_without_an_answer_ends_at_its_deadline(tmp_path: Path) -> None:
    hanging = FakeModel("e", switches="--hang-after 0")
    settings = ServeConfig(request_seconds=0.5, **FAST)
    async with running_front(tmp_path, [hanging], settings) as running, client(running) as http:
        reply = await http.post("/embed", json={"inputs": "x"})
        assert (reply.status_code, reply.json()["code"]) == (504, "deadline")


async def test_a_client_that_leaves_cancels_the_engine(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    endless = FakeModel("g", Role.GENERATE, f"--words 1000 --word-seconds 0.02 --cancel-file {gone}")
    async with running_front(tmp_path, [endless]) as running, client(running) as http:
        for path in ("/v1/chat/completions", "/api/chat"):
            body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
            async with http.stream("POST", path, json=body) as reply:
                await anext(reply.aiter_bytes())
        for _ in range(200):
            if gone.exists() and len(gone.read_text().splitlines()) == 2:
                break
            await asyncio.sleep(0.02)
        assert gone.read_text().splitlines() == ["gone", "gone"]
        assert running.supervisor.find("g").calls.queue.idle


async def collect(
    http: httpx.AsyncClient,
    path: str,
    body: object,
    received: list[bytes],
    headers: dict[str, str] | None = None,
) -> None:
    async with http.stream("POST", path, json=body, headers=headers) as reply:
        async for piece in reply.aiter_bytes():
            received.append(piece)


@pytest.mark.parametrize("family", [Family.V10, Family.V2, Family.V1])
async def test_an_engine_that_dies_midway_is_told_and_cut(tmp_path: Path, family: Family) -> None:
    cut = FakeModel("g", Role.GENERATE, "--cut-after 2 --word-seconds 0.1", family)
    async with running_front(tmp_path, [cut]) as running, client(running) as http:
        body = {"prompt": "x", "messages": [{"role": "user", "content": "x"}], "stream": True}
        for path in ("/completion", "/v1/completions", "/v1/chat/completions", "/api/generate"):
            received: list[bytes] = []
            with pytest.raises(httpx.RemoteProtocolError):
                await collect(http, path, body, received)
            last = b"".join(received).strip().splitlines()[-1].removeprefix(b"data: ")
            error = json.loads(last)["error"]
            said = error if isinstance(error, str) else error["message"]
            assert "broke off its answer" in said
            assert json.loads(last).get("src", None if isinstance(error, str) else error["src"]) == "engine"


async def test_keys_that_are_not_listed_stay_here(tmp_path: Path) -> None:
    seen = tmp_path / "bodies"
    async with (
        running_front(tmp_path, [FakeModel("g", Role.GENERATE, f"--body-file {seen}")]) as running,
        client(running) as http,
    ):
        await http.post("/completion", json={"prompt": "x", "n_discard": -5, "lora": 1, "seed": None})
        await http.post("/api/generate", json={"model": "g", "prompt": "x", "stream": False, "keep_alive": 5})
        first, second = [json.loads(line)["body"] for line in seen.read_text().splitlines()]
    assert first == {"model": "g", "prompt": "x", "sse_ping_interval": -1}
    assert second == {"model": "g", "messages": [{"role": "user", "content": "x"}]}


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_trace_context_reaches_the_engine(tmp_path: Path) -> None:
    seen = tmp_path / "bodies"
    switches = f"--body-file {seen}"
    models = [FakeModel("g", Role.GENERATE, switches), FakeModel("r", Role.RERANK, switches)]
    sent = {
        "traceparent": TRACE,
        "tracestate": "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
        "x-request-id": "mine-1",
        "authorization": "Bearer of-the-caller",
        "x-other": "1",
    }
    async with running_front(tmp_path, models) as running, client(running, headers=sent) as http:
        await http.post("/v1/chat/completions", json={"messages": [], "stream": True})
        await http.post("/api/generate", json={"prompt": "x", "stream": False})
        await http.post("/rerank", json={"query": "q", "documents": ["a"]})
    arrived = [json.loads(line)["headers"] for line in seen.read_text().splitlines()]
    assert len(arrived) == 3
    for headers in arrived:
        lowered = {name.lower(): value for name, value in headers.items()}
        assert {name: lowered[name] for name in ("traceparent", "tracestate", "x-request-id")} == {
            name: sent[name] for name in ("traceparent", "tracestate", "x-request-id")
        }
        assert lowered["authorization"] != sent["authorization"]
        assert "x-other" not in lowered


async def test_reranking(tmp_path: Path) -> None:
    documents = ["cats purr", "dogs bark", "dogs bark at cats"]
    async with (
        running_front(tmp_path, [FakeModel("r", Role.RERANK)]) as running,
        client(running) as http,
    ):
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            body = (await http.post(path, json={"query": "dogs bark at", "documents": documents})).json()
            assert [each["index"] for each in body["results"]] == [2, 1, 0]
        tei = (await http.post("/rerank", json={"query": "dogs bark at", "texts": documents})).json()
        assert [each["index"] for each in tei] == [2, 1, 0]


async def test_without_a_reranker_the_answer_says_so(tmp_path: Path) -> None:
    async with running_front(tmp_path, [EMBED]) as running, client(running) as http:
        reply = await http.post("/v1/rerank", json={"query": "q", "documents": ["a"]})
        assert reply.status_code == 400
        assert "no model to rerank is being served" in reply.json()["message"]


async def test_small_routes(tmp_path: Path) -> None:
    async with running_front(tmp_path, [EMBED, GENERATE]) as running, client(running) as http:
        assert (await http.get("/")).text == "Ollama is running"
        assert (await http.head("/")).status_code == 200
        assert (await http.get("/api/version/")).json()["version"].count(".") == 2
        assert {m["name"] for m in (await http.get("/api/tags")).json()["models"]} == {"e", "g"}
        assert len((await http.get("/api/ps")).json()["models"]) == 2
        shown = (await http.post("/api/show", json={"model": "e:latest"})).json()
        assert shown["capabilities"] == ["embedding"]
        info = (await http.get("/info")).json()
        assert (info["model_id"], info["max_input_length"]) == ("e", 512)
        assert (await http.get("/props")).json()["total_slots"] == 2
        assert (await http.post("/detokenize", json={"tokens": [1, 2]})).json() == {"content": "1 2"}
        assert (await http.post("/tokenize", json={"content": "a b"})).json()["tokens"]
        for path in ("/embed_all", "/embed_sparse"):
            refused = await http.post(path, json={"inputs": "x"})
            assert (refused.status_code, refused.json()["error_type"]) == (400, "validation")
        pulled = await http.post("/api/pull", json={"model": "e"})
        assert pulled.text == '{"status":"success"}\n'
        assert (await http.post("/api/pull", json={"model": "new"})).status_code == 400


async def test_ids_metrics_and_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llamafile_mgr.access")
    async with running_front(tmp_path, [EMBED]) as running, client(running) as http:
        sent = {"x-request-id": "mine-1", "traceparent": TRACE}
        reply = await http.post("/v1/embeddings", json={"input": ["a", "b"]}, headers=sent)
        assert reply.headers["x-request-id"] == "mine-1"
        odd = await http.post("/v1/embeddings", json={"input": 3}, headers={"x-request-id": "a b"})
        assert len(odd.headers["x-request-id"]) == 16
        text = (await http.get("/metrics")).text
    lines = text.splitlines()
    assert 'llamafile_requests_total{route="/v1/embeddings",model="e",status="200"} 1' in lines
    assert 'llamafile_errors_total{model="e",code="invalid_request"} 1' in lines
    assert 'llamafile_texts_total{model="e"} 2' in lines
    assert 'llamafile_model_ready{model="e",role="embed"} 1' in lines
    assert 'llamafile_embedding_seconds_bucket{model="e",le="+Inf"} 1' in lines
    assert any(line.startswith("llamafile_engine_memory_bytes{") for line in lines)
    logged = [json.loads(record.message) for record in caplog.records if record.name.endswith("access")]
    assert (logged[0]["id"], logged[0]["status"], logged[0]["texts"]) == ("mine-1", 200, 2)
    assert logged[0]["trace"] == "0af7651916cd43dd8448eb211c80319c"
    assert logged[1]["error"] == "invalid_request"
