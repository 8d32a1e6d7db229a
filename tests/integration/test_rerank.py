"""A reranker on the real engine, from its file to the answers of three client dialects."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cohere
import httpx
import psutil
import pytest

from tests.support.reranker import ANSWERS, fit_reranker
from tests.support.service import Service, run_program, running_service

DOCUMENTS = list(ANSWERS.values())


@pytest.fixture(scope="module")
def reranker(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_reranker(minilm, tmp_path_factory.mktemp("models") / "tiny-reranker.gguf")


@pytest.fixture(scope="module")
def served(reranker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("home"), "--rerank", str(reranker)) as running:
        yield running


def post(service: Service, path: str, body: dict[str, Any]) -> Any:
    reply = httpx.post(f"{service.url}{path}", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-model"] == "tiny-reranker"
    return reply.json()


@pytest.mark.parametrize("path", ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking", "/v2/rerank"])
def test_every_route_puts_the_answer_first(served: Service, path: str) -> None:
    for number, question in enumerate(ANSWERS):
        body = post(served, path, {"model": "m", "query": question, "documents": DOCUMENTS, "top_n": 2})
        assert [each["index"] for each in body["results"]][:1] == [number]
        assert len(body["results"]) == 2
        assert 1 >= body["results"][0]["relevance_score"] > 0.5 > body["results"][1]["relevance_score"] >= 0


def test_teis_form(served: Service) -> None:
    question = "What do cats eat?"
    body = {"query": question, "texts": DOCUMENTS, "raw_scores": True, "return_text": True}
    ranked = post(served, "/rerank", body)
    assert ranked[0]["text"] == ANSWERS[question]
    assert ranked[0]["score"] == pytest.approx(3.0, abs=0.3)
    assert [each["score"] for each in ranked] == sorted((e["score"] for e in ranked), reverse=True)


def test_coheres_client(served: Service) -> None:
    question = "How high is Mont Blanc?"
    for kind in (cohere.Client, cohere.ClientV2):
        with httpx.Client(timeout=30) as http:
            client = kind(api_key="x", base_url=served.url, httpx_client=http)
            reply = client.rerank(model="m", query=question, documents=DOCUMENTS, top_n=3)
        assert DOCUMENTS[reply.results[0].index] == ANSWERS[question]


def test_too_long_a_document_is_the_callers_fault(served: Service) -> None:
    body = {"query": "q", "documents": ["short", "x " * 600]}
    reply = httpx.post(f"{served.url}/v1/reranking", json=body, timeout=30)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"


def test_it_reranks_and_nothing_else(served: Service) -> None:
    reply = httpx.post(f"{served.url}/v1/embeddings", json={"input": "x", "model": "tiny-reranker"})
    assert reply.status_code == 400
    assert "it is a model to rerank" in reply.json()["error"]["message"]


def test_a_killed_engine_is_replaced_and_the_call_answered(served: Service) -> None:
    for engine in psutil.Process(served.process.pid).children(recursive=True):
        engine.kill()
    body = post(served, "/v1/rerank", {"query": "When did the war end?", "documents": DOCUMENTS})
    assert body["results"][0]["index"] == 2


def test_the_role_is_read_from_the_file(reranker: Path, tmp_path: Path) -> None:
    result = run_program(tmp_path, "plan", str(reranker), "--json")
    [plan] = json.loads(result.stdout)["plans"]
    assert plan["role"] == "rerank"
    assert "--rerank" in json.dumps(plan)
    (tmp_path / "config.toml").write_text(f'[serve]\nrerank = "{reranker}"\n')
    assert json.loads(run_program(tmp_path, "plan", "--json").stdout)["plans"][0]["role"] == "rerank"


def test_an_embedding_model_is_no_reranker(minilm: Path, tmp_path: Path) -> None:
    model = tmp_path / "other.gguf"
    shutil.copy(minilm, model)
    model.write_bytes(model.read_bytes().replace(b"all-minilm-l6-v2", b"some-other-model", 1))
    result = run_program(tmp_path, "serve", "--port", "0", "--rerank", str(model))
    assert result.returncode == 10
    assert "no reranker: its file pools by mean" in result.stderr
