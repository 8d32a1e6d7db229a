"""Reranking's three forms without a socket."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.engines.messages import EngineReply
from llamafile_mgr.engines.reranking import read_scores
from llamafile_mgr.errors import EngineError, RequestError
from llamafile_mgr.proxy.dialects.dialect import RerankCall, find_form
from llamafile_mgr.proxy.dialects.dialect_table import DIALECTS
from llamafile_mgr.proxy.dialects.rerank_forms import DOCUMENTS_FORM, best_documents
from llamafile_mgr.proxy.http import Request

REQUEST = Request("POST", "/rerank", {}, b"")
DOCUMENTS = ["a", "b", "c"]


def parse_rerank(body: dict[str, Any]) -> RerankCall:
    """Parse a body as the shared routes do."""
    form = find_form(DOCUMENTS_FORM, "rerank", DIALECTS, REQUEST, body)
    return form.parse(REQUEST, body)


def render_rerank(call: RerankCall, scores: list[float], model: str, request_id: str) -> Any:
    return call.render(call, best_documents(call, scores), model, request_id)


def test_jina_and_cohere() -> None:
    call = parse_rerank(
        {"query": "q", "documents": ["a", {"text": "b"}, "c"], "top_n": 2, "return_documents": True}
    )
    body = render_rerank(call, [0.0, 3.0, -3.0], "m", "r1")
    assert [each["index"] for each in body["results"]] == [1, 0]
    assert body["results"][1] == {"index": 0, "relevance_score": 0.5, "document": {"text": "a"}}
    assert (body["model"], body["id"]) == ("m", "r1")


def test_tei() -> None:
    call = parse_rerank({"query": "q", "texts": DOCUMENTS, "raw_scores": True, "return_text": True})
    assert render_rerank(call, [1.0, 2.0, -3.0], "m", "r1")[0] == {"index": 1, "score": 2.0, "text": "b"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": "q"},
        {"query": "q", "documents": []},
        {"query": "q", "documents": "a"},
        {"query": "q", "documents": [3]},
        {"query": 3, "documents": ["a"]},
        {"query": "q", "documents": ["a"], "top_n": 0},
    ],
)
def test_wrong_bodies(body: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        parse_rerank(body)


@pytest.mark.parametrize(
    "reply",
    [
        None,
        {},
        {"results": [{"index": 0, "relevance_score": 1.0}]},
        {"results": [{"index": 0, "relevance_score": 1.0}, {"index": 0, "relevance_score": 1.0}]},
        {"results": [{"index": 0, "relevance_score": math.nan}, {"index": 1, "relevance_score": 1.0}]},
    ],
)
def test_engines_that_give_no_scores(reply: object) -> None:
    with pytest.raises(EngineError):
        read_scores(EngineReply(200, "application/json", json.dumps(reply).encode()), 2)


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=20))
def test_scores_lie_between_0_and_1_in_order(scores: list[float]) -> None:
    call = parse_rerank({"query": "q", "documents": ["x"] * len(scores)})
    shown = [each["relevance_score"] for each in render_rerank(call, scores, "m", "r")["results"]]
    assert all(0 <= score <= 1 for score in shown)
    assert shown == sorted(shown, reverse=True)
