"""Parsing and rendering without a socket: every key, every shape, and what is refused."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from llamafile_mgr.embedding.requests import EmbedResult
from llamafile_mgr.errors import NotReadyError, RequestError
from llamafile_mgr.proxy.dialects import llamafile, openai
from llamafile_mgr.proxy.events import EventStyle
from llamafile_mgr.proxy.generation import prepare_body, style_of

VECTORS = np.array([[1, 0], [0, 1]], dtype=np.float32)


def result(count: int) -> EmbedResult:
    return EmbedResult(VECTORS[:count], prompt_tokens=5, vector_space="abc")


def test_openai_floats_and_base64() -> None:
    call = openai.parse_embeddings({"input": ["a", "b"], "encoding_format": "base64", "unknown": 1})
    body = openai.render_embeddings(call, result(2), "m")
    assert [np.frombuffer(base64.b64decode(d["embedding"]), "<f4").tolist() for d in body["data"]] == [
        [1, 0],
        [0, 1],
    ]
    assert (body["model"], body["usage"]) == ("m", {"prompt_tokens": 5, "total_tokens": 5})
    floats = openai.render_embeddings(openai.parse_embeddings({"input": "a"}), result(1), "m")
    assert floats["data"][0]["embedding"].tolist() == [1, 0]


def test_the_old_llamafile_shapes() -> None:
    one = llamafile.render_embedding(llamafile.parse_embedding({"content": "a"}), result(1))
    assert list(one) == ["embedding"]
    listed = llamafile.render_embedding(llamafile.parse_embedding({"content": ["a"]}), result(1))
    assert set(listed) == {"results", "embedding"}
    many = llamafile.render_embedding(llamafile.parse_embedding({"content": ["a", "b"]}), result(2))
    assert [row["embedding"].tolist() for row in many["results"]] == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "has no 'input'"),
        ({"input": []}, "empty list"),
        ({"input": 12.5}, "a text or a list of texts, not a number"),
        ({"input": {"a": 1}}, "not an object"),
        ({"input": True}, "not true or false"),
        ({"input": [1, 2]}, "token ids"),
        ({"input": [[1, 2]]}, "token ids"),
        ({"input": ["a", None]}, "item 1 of 'input'"),
        ({"input": ["a", {"text": "b"}]}, "item 1 of 'input' must be a text, not an object"),
        ({"input": "a", "encoding_format": "int8"}, "'float' or 'base64', not 'int8'"),
        ({"input": "a", "dimensions": 100}, "'dimensions' cannot be chosen"),
    ],
)
def test_wrong_embedding_bodies(body: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        openai.parse_embeddings(body)


def test_errors_say_whose_they_are() -> None:
    error = openai.render_error(RequestError("bad", hint="mend it"))["error"]
    assert (error["message"], error["type"], error["src"]) == (
        "bad; mend it",
        "invalid_request_error",
        "llamafile-mgr",
    )
    assert openai.render_error(NotReadyError("wait"))["error"]["type"] == "unavailable_error"


def test_llama_index_chat_is_recognised_and_its_options_are_flattened() -> None:
    body = {"messages": [], "options": {"temperature": 0.5, "n_predict": 16}, "max_tokens": 16}
    style = style_of("/v1/chat/completions", body)
    assert style is EventStyle.STRICT_CHAT
    assert prepare_body(body, style) == {
        "messages": [],
        "temperature": 0.5,
        "n_predict": 16,
        "max_tokens": 16,
        "sse_ping_interval": -1,
    }


def test_other_bodies_are_left_alone() -> None:
    body = {"model": "m", "messages": [], "max_completion_tokens": 3, "options": {"a": 1}}
    style = style_of("/v1/chat/completions", body)
    assert style is EventStyle.STANDARD
    assert prepare_body(body, style) == {**body, "max_tokens": 3}
    assert style_of("/completion", {"prompt": "x"}) is EventStyle.COMPLETION
