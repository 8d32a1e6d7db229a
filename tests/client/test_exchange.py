"""What the clients send and make of answers, without a socket."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.client import operations as calls
from llamafile_mgr.client.conversation import Exchange, Outcome, Send
from llamafile_mgr.client.operations import split_texts
from llamafile_mgr.client.values import Embeddings, ItemError, Ranked
from llamafile_mgr.errors import (
    BusyError,
    EngineError,
    Error,
    InputTooLongError,
    NotFoundError,
    NotReadyError,
    RequestError,
    UsageError,
    VectorSpaceError,
)

ROW = "AACAPwAAAEA="  # 1.0 and 2.0 as little-endian float32


def drive(
    exchange: Exchange[Any], outcomes: Sequence[httpx.Response | httpx.HTTPError]
) -> tuple[Any, list[Send | float]]:
    """Run an exchange with these outcomes and return its result and what it did; errors are raised."""
    steps: list[Send | float] = []
    waiting, outcome = list(outcomes), None
    while True:
        try:
            step = exchange.send(outcome)
        except StopIteration as end:
            assert not waiting
            return end.value, steps
        steps.append(step)
        given_: Outcome = waiting.pop(0) if isinstance(step, Send) else None
        outcome = given_


def answer(status: int = 200, body: object = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=named, json=body)


def vectors(*rows: dict[str, Any], space: str = "space") -> httpx.Response:
    body = {"data": list(rows), "model": "m", "usage": {"prompt_tokens": 3}}
    return answer(200, body, x_vector_space=space)


def refusal(status: int, code: str = "other", **headers: str) -> httpx.Response:
    return answer(status, {"error": {"message": "why", "code": code}}, **headers)


def embed(
    texts: Sequence[str], outcomes: Sequence[httpx.Response | httpx.HTTPError], **options: Any
) -> tuple[Embeddings, list[Send | float]]:
    found, steps = drive(calls.embed(texts, retries=2, **options), outcomes)
    assert isinstance(found, Embeddings)
    return found, steps


def test_what_is_sent_and_what_comes_back() -> None:
    found, [step] = embed(
        ["a", "b"],
        [vectors({"embedding": ROW}, {"embedding": ROW, "truncated": "right", "tokens": 9})],
        input_type="query",
        dimensions=2,
    )
    assert isinstance(step, Send)
    assert step.path == "/v1/embeddings"
    assert json.loads(step.body or b"") == {
        "input": ["a", "b"],
        "encoding_format": "base64",
        "input_type": "query",
        "dimensions": 2,
    }
    assert found.vectors == [[1.0, 2.0], [1.0, 2.0]]
    assert found.as_numpy().tolist() == found.vectors
    assert found.as_numpy().dtype.name == "float32"
    assert (found.truncated, found.vector_space, found.prompt_tokens) == ((1,), "space", 3)


def test_texts_that_fail_are_told_one_by_one_across_requests() -> None:
    many = ["x"] * 513
    failed = {"embedding": None, "error": {"code": "context_length_exceeded", "message": "long"}}
    found, steps = embed(many, [vectors(*[{"embedding": ROW}] * 512), vectors(failed)], keep_going=True)
    assert len(steps) == 2
    assert found.errors == (ItemError(512, "context_length_exceeded", "long"),)
    assert found.vectors[512] is None
    assert found.as_numpy().shape == (513, 2)
    assert str(found.as_numpy()[512, 0]) == "nan"


def test_no_texts_ask_nobody() -> None:
    found, steps = embed([], [])
    assert (found.vectors, steps, found.as_numpy().shape) == ([], [], (0, 0))
    with pytest.raises(UsageError):
        embed("one text", [])


def test_another_vector_space_is_an_error() -> None:
    with pytest.raises(VectorSpaceError, match="space"):
        embed(["a"], [vectors({"embedding": ROW})], if_vector_space="other")
    with pytest.raises(VectorSpaceError):
        embed(["x"] * 513, [vectors(*[{"embedding": ROW}] * 512), vectors({"embedding": ROW}, space="new")])


def test_the_wanted_space_is_sent_and_a_second_request_asks_for_that_of_the_first() -> None:
    answers = [vectors(*[{"embedding": ROW}] * 512), vectors({"embedding": ROW})]
    _, steps = embed(["x"] * 513, answers)
    conditions = [step.headers.get("if-vector-space") for step in steps if isinstance(step, Send)]
    assert conditions == [None, '"space"']
    _, [step] = embed(["x"], [vectors({"embedding": ROW})], if_vector_space="space")
    assert isinstance(step, Send)
    assert step.headers == {"if-vector-space": '"space"', "content-type": "application/json"}


def test_too_few_vectors_are_an_error() -> None:
    with pytest.raises(EngineError, match="2 texts were sent and 1"):
        embed(["a", "b"], [vectors({"embedding": ROW})])


def test_what_may_help_is_tried_again() -> None:
    good = vectors({"embedding": ROW})
    _, steps = embed(["a"], [refusal(429, "busy", retry_after="7"), httpx.ReadError("reset"), good])
    assert [step for step in steps if isinstance(step, float)] == [7.0, 0.4]
    _, steps = embed(["a"], [refusal(503, retry_after="3600"), good])
    assert [step for step in steps if isinstance(step, float)] == [30.0]


@pytest.mark.parametrize(
    ("outcome", "kind", "tries"),
    [
        (refusal(400), RequestError, 1),
        (refusal(400, "context_length_exceeded"), InputTooLongError, 1),
        (refusal(401, "invalid_api_key"), RequestError, 1),
        (refusal(404, "model_not_found"), NotFoundError, 1),
        (refusal(409, "vector_space_mismatch"), VectorSpaceError, 1),
        (refusal(429, "busy"), BusyError, 3),
        (refusal(502, "engine"), EngineError, 3),
        (refusal(503, "not_ready", retry_after="9"), NotReadyError, 3),
        (answer(500, "no object"), EngineError, 1),
        (httpx.Response(200, content=b"<html>"), EngineError, 1),
        (httpx.ConnectError("refused"), NotReadyError, 3),
    ],
)
def test_answers_become_our_errors(
    outcome: httpx.Response | httpx.HTTPError, kind: type[Error], tries: int
) -> None:
    with pytest.raises(Error) as caught:
        drive(calls.models(retries=2), [outcome] * tries)
    assert type(caught.value) is kind
    if isinstance(outcome, httpx.Response) and "retry-after" in outcome.headers:
        assert isinstance(caught.value, NotReadyError)
        assert caught.value.retry_after_seconds == 9


def test_reranking() -> None:
    body = {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]}
    found, [step] = drive(calls.rerank("q", ["a", "b"], "m", 2, retries=0), [answer(200, body)])
    assert found == [Ranked(1, 0.9), Ranked(0, 0.1)]
    assert isinstance(step, Send)
    assert json.loads(step.body or b"") == {"query": "q", "documents": ["a", "b"], "model": "m", "top_n": 2}


@given(st.lists(st.text(max_size=3) | st.just("long" * 600_000), max_size=6), st.integers(0, 600))
def test_splitting_keeps_every_text_in_order(few: list[str], more: int) -> None:
    texts = [*few, *["x"] * more]
    parts = list(split_texts(texts))
    assert [text for part in parts for text in part] == texts
    for part in parts:
        assert 1 <= len(part) <= 512
        assert len(part) == 1 or sum(map(len, part)) <= 4_000_000


def test_a_held_call_that_failed_late_is_an_error_and_worth_another_try() -> None:
    def late(code: str) -> httpx.Response:
        return answer(200, {"error": {"code": code, "message": "sorry"}})

    found, steps = embed(["a"], [late("not_ready"), vectors({"embedding": ROW})])
    assert found.vectors == [[1.0, 2.0]]
    assert [type(step) for step in steps] == [Send, float, Send]
    with pytest.raises(EngineError, match="sorry"):
        embed(["a"], [late("engine")])


def test_a_task_and_no_cache_are_told() -> None:
    _, [step] = embed(["a"], [vectors({"embedding": ROW})], task="find it", use_cache=False)
    assert isinstance(step, Send)
    body = json.loads(step.body or b"")
    assert (body["instruction"], body["use_cache"]) == ("find it", False)
