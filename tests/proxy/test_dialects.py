"""Parsing and rendering without a socket: every key, every shape, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafile_mgr.embedding.requests import EmbedResult, InputType, ItemOutcome, TextChunk, Truncation
from llamafile_mgr.errors import (
    EngineError,
    EngineLostError,
    Error,
    InputTooLongError,
    NotReadyError,
    RequestError,
)
from llamafile_mgr.proxy.api_errors import EngineRefusedError, render_error
from llamafile_mgr.proxy.dialects.cohere import COHERE
from llamafile_mgr.proxy.dialects.dialect import EmbedCall
from llamafile_mgr.proxy.dialects.dialect_table import DIALECTS
from llamafile_mgr.proxy.dialects.ollama import OLLAMA
from llamafile_mgr.proxy.dialects.tei import TEI
from llamafile_mgr.proxy.engine_answers import prepare_body, style_of
from llamafile_mgr.proxy.http import Request
from llamafile_mgr.proxy.routes.embedding import parse_embedding
from llamafile_mgr.proxy.server_sent_events import EventStyle

EMBED_ROUTES = {route.path: route for each in DIALECTS for route in each.routes if route.conditional}
VECTORS = np.array([[1, 0], [0, 1]], dtype=np.float32)


def parse_call(path: str, body: dict[str, Any], *, request_id: str, new_list: bool) -> EmbedCall:
    """Parse a body as its route does, without a model that answers."""
    request = Request("POST", path, {}, b"", {"shape": "list"} if new_list else {}, request_id=request_id)
    own, shared = EMBED_ROUTES[path].answer.args  # type: ignore[attr-defined]
    return parse_embedding(own, DIALECTS if shared else (), request, body)


def result(count: int, *outcomes: ItemOutcome) -> EmbedResult:
    return EmbedResult(VECTORS[:count], prompt_tokens=5, vector_space="abc", outcomes=outcomes)


def answer(path: str, body: dict[str, Any], count: int = 1, *, new_list: bool = False) -> Any:
    """Return what a client reads."""
    call = parse_call(path, body, request_id="r1", new_list=new_list)
    assert len(call.request.texts) == count
    return json.loads(orjson.dumps(call.render(result(count), "m", 0.5), option=orjson.OPT_SERIALIZE_NUMPY))


def request_of(path: str, body: dict[str, Any]) -> Any:
    return parse_call(path, body, request_id="r1", new_list=False).request


OPENAI_KEYS = {"object", "data", "model", "usage"}


@pytest.mark.parametrize(
    ("path", "body", "count", "expected"),
    [
        ("/embedding", {"content": "a"}, 1, {"embedding": [1, 0]}),
        ("/embeddings", {"content": "a"}, 1, {"embedding": [1, 0]}),
        ("/embedding", {"content": ["a"]}, 1, {"results": [{"embedding": [1, 0]}], "embedding": [1, 0]}),
        (
            "/embedding",
            {"content": ["a", "b"]},
            2,
            {"results": [{"embedding": [1, 0]}, {"embedding": [0, 1]}]},
        ),
        ("/embedding", {"prompt": "a"}, 1, {"embedding": [1, 0]}),
        ("/embed", {"inputs": "a"}, 1, [[1, 0]]),
        ("/embed", {"inputs": ["a", "b"], "truncate": True}, 2, [[1, 0], [0, 1]]),
        ("/api/embeddings", {"prompt": "a", "model": "m"}, 1, {"embedding": [1, 0]}),
    ],
)
def test_the_key_decides_the_shape(path: str, body: dict[str, Any], count: int, expected: object) -> None:
    assert answer(path, body, count) == expected


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", "/embedding"])
def test_input_means_openai_on_every_path(path: str) -> None:
    body = answer(path, {"input": "a"})
    assert set(body) == OPENAI_KEYS | ({"embedding"} if path == "/embedding" else set())
    assert body["data"] == [{"object": "embedding", "index": 0, "embedding": [1, 0]}]
    assert (body["model"], body["usage"]) == ("m", {"prompt_tokens": 5, "total_tokens": 5})


def test_the_new_list_is_given_on_request() -> None:
    for key in ("content", "input"):
        assert answer("/embedding", {key: ["a", "b"]}, 2, new_list=True) == [
            {"index": 0, "embedding": [[1, 0]]},
            {"index": 1, "embedding": [[0, 1]]},
        ]


def test_base64_is_exact() -> None:
    for key in ("encoding_format", "embedding_type"):
        body = answer("/v1/embeddings", {"input": ["a", "b"], key: "base64"}, 2)
        rows = [np.frombuffer(base64.b64decode(d["embedding"]), "<f4").tolist() for d in body["data"]]
        assert rows == [[1, 0], [0, 1]]


def test_ollama_embed() -> None:
    body = answer("/api/embed", {"input": ["a", "b"], "model": "m", "options": {}}, 2)
    assert body["embeddings"] == [[1, 0], [0, 1]]
    assert (body["model"], body["total_duration"]) == ("m", 500_000_000)
    assert parse_call("/api/embed", {"input": []}, request_id="r", new_list=False).request.texts == ()


def test_cohere_versions_and_types() -> None:
    old = answer("/v1/embed", {"texts": ["a"], "input_type": "search_document"})
    assert (old["embeddings"], old["response_type"], old["id"]) == ([[1, 0]], "embeddings_floats", "r1")
    kinds = ["float", "binary", "ubinary", "base64"]
    new = answer("/v2/embed", {"texts": ["a", "b"], "embedding_types": kinds}, 2)
    assert new["response_type"] == "embeddings_by_type"
    assert new["embeddings"]["float"] == [[1, 0], [0, 1]]
    assert (new["embeddings"]["ubinary"], new["embeddings"]["binary"]) == ([[128], [64]], [[0], [-64]])
    contents = [{"content": [{"type": "text", "text": "a"}]}, {"content": "b"}]
    assert request_of("/v2/embed", {"inputs": contents}).texts == ("a", "b")


@pytest.mark.parametrize(
    ("path", "body", "kind", "truncation", "dimensions"),
    [
        ("/v1/embeddings", {"input": "a"}, None, Truncation.ERROR, None),
        (
            "/v1/embeddings",
            {"input": "a", "input_type": "query", "truncation": True, "output_dimension": 2},
            InputType.QUERY,
            Truncation.RIGHT,
            2,
        ),
        (
            "/v1/embeddings",
            {"input": "a", "task": "retrieval.passage", "dimensions": 1, "truncate": "left"},
            InputType.DOCUMENT,
            Truncation.LEFT,
            1,
        ),
        (
            "/embedding",
            {"content": "a", "input_type": "none", "truncate": "chunk"},
            InputType.NONE,
            Truncation.CHUNK,
            None,
        ),
        ("/api/embed", {"input": "a"}, None, Truncation.RIGHT, None),
        ("/api/embed", {"input": "a", "truncate": False, "dimensions": 3}, None, Truncation.ERROR, 3),
        ("/embed", {"inputs": "a"}, None, Truncation.ERROR, None),
        (
            "/embed",
            {"inputs": "a", "truncate": True, "truncation_direction": "Left"},
            None,
            Truncation.LEFT,
            None,
        ),
        (
            "/v2/embed",
            {"texts": ["a"], "input_type": "search_query", "truncate": "START", "output_dimension": 2},
            InputType.QUERY,
            Truncation.LEFT,
            2,
        ),
        ("/v1/embed", {"texts": ["a"], "input_type": "clustering"}, InputType.NONE, Truncation.RIGHT, None),
    ],
)
def test_fields_reach_the_request(
    path: str, body: dict[str, Any], kind: InputType | None, truncation: Truncation, dimensions: int | None
) -> None:
    parsed = request_of(path, body)
    assert (parsed.input_type, parsed.truncation, parsed.dimensions) == (kind, truncation, dimensions)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/embeddings", {}, "has no 'input'"),
        ("/embedding", {}, "has no 'content'"),
        ("/api/embed", {}, "has no 'input'"),
        ("/v1/embed", {}, "has no 'texts'"),
        ("/v1/embeddings", {"input": []}, "empty list"),
        ("/v1/embeddings", {"input": 12.5}, "a text or a list of texts, not a number"),
        ("/v1/embeddings", {"input": {"a": 1}}, "not an object"),
        ("/v1/embeddings", {"input": True}, "not true or false"),
        ("/v1/embeddings", {"input": [1, 2]}, "token ids"),
        ("/v1/embeddings", {"input": [[1, 2]]}, "token ids"),
        ("/v1/embeddings", {"input": ["a", None]}, "item 1 of 'input'"),
        ("/v1/embeddings", {"input": ["a", {"text": "b"}]}, "item 1 of 'input' must be a text"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "'float' or 'base64', not 'int8'"),
        ("/v1/embeddings", {"input": "a", "output_dtype": "int8"}, "output_dtype must be 'float'"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "whole number from 1"),
        ("/v1/embeddings", {"input": "a", "dimensions": True}, "whole number from 1"),
        ("/v1/embeddings", {"input": "a", "input_type": "poem"}, "'input_type' is 'poem'"),
        ("/v1/embeddings", {"input": "a", "truncate": 3}, "'truncate' is 3"),
        ("/v1/embeddings", {"input": "a", "keep_going": "yes"}, "must be true or false"),
        ("/v1/embeddings", {"input": "a", "return_chunks": True}, "needs texts to be cut into chunks"),
        ("/embedding", {"content": "a", "truncate": "chunk", "return_chunks": True}, "no room for chunks"),
        ("/api/embed", {"input": "a", "return_chunks": True}, "no room for chunks"),
        ("/embed", {"inputs": "a", "return_chunks": True}, "no room for chunks"),
        ("/v2/embed", {"texts": ["a"], "return_chunks": True}, "no room for chunks"),
        ("/embed", {"inputs": "a", "normalize": False}, "always of unit length"),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, "Left or Right"),
        ("/embed", {"inputs": [["a", "b"]]}, "item 0 of 'inputs'"),
        ("/v2/embed", {"texts": ["a"], "embedding_types": ["int8"]}, "'int8' is not offered"),
        ("/v2/embed", {"texts": ["a"], "embedding_types": [["float"]]}, "is not offered"),
        ("/v2/embed", {"texts": ["a"], "embedding_types": "float"}, "must be a list"),
        ("/v2/embed", {"inputs": [{"content": [{"type": "image_url"}]}]}, "exactly one text"),
    ],
)
def test_wrong_embedding_bodies(path: str, body: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_call(path, body, request_id="r", new_list=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TEXT_KEYS = ["input", "content", "prompt", "inputs", "texts"]
FIELDS = [
    "truncate",
    "dimensions",
    "embedding_types",
    "encoding_format",
    "output_dtype",
    "task",
    "input_type",
]
KEYS = [*TEXT_KEYS, *FIELDS, "truncation_direction", "return_chunks", "instruction", "output_dimension"]
PATHS = ["/v1/embeddings", "/embedding", "/embed", "/v1/embed", "/v2/embed", "/api/embed", "/api/embeddings"]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(PATHS), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5))
def test_any_body_is_parsed_or_refused(path: str, body: dict[str, Any]) -> None:
    try:
        call = parse_call(path, body, request_id="r", new_list=False)
    except RequestError:
        return
    assert all(isinstance(text, str) for text in call.request.texts)


def test_outcomes_are_told_per_item() -> None:
    call = parse_call(
        "/v1/embeddings", {"input": ["a", "b"], "keep_going": True}, request_id="", new_list=False
    )
    assert call.request.keep_going
    outcomes = (
        ItemOutcome(tokens=9, error=InputTooLongError("too long")),
        ItemOutcome(tokens=7, truncated=Truncation.CHUNK, chunks=2),
    )
    failed, chunked = call.render(result(2, *outcomes), "m", 0.0)["data"]  # type: ignore[index]
    assert failed["embedding"] is None
    assert failed["error"] == {"message": "too long", "code": "context_length_exceeded"}
    assert (chunked["truncated"], chunked["chunks"], chunked["tokens"]) == ("chunk", 2, 7)


def test_chunks_take_the_place_of_their_number() -> None:
    outcome = ItemOutcome(tokens=7, truncated=Truncation.CHUNK, chunks=2)
    chunks = ((TextChunk(0, 4, VECTORS[0], 5), TextChunk(3, 9, VECTORS[1])),)
    said = EmbedResult(VECTORS[:1], 5, "abc", (outcome,), chunks)
    body = {"input": "some text", "truncate": "chunk", "return_chunks": True}
    for encoding, first in (("float", [1, 0]), ("base64", base64.b64encode(VECTORS[0].tobytes()).decode())):
        call = parse_call(
            "/v1/embeddings", {**body, "encoding_format": encoding}, request_id="", new_list=False
        )
        assert call.request.return_chunks
        rendered = orjson.dumps(call.render(said, "m", 0.0), option=orjson.OPT_SERIALIZE_NUMPY)
        (item,) = json.loads(rendered)["data"]
        one, two = item["chunks"]
        assert one == {"start": 0, "end": 4, "tokens": 5, "embedding": first}
        assert (two["start"], two["end"], "tokens" in two) == (3, 9, False)
        assert item["tokens"] == 7


@pytest.mark.parametrize(
    ("error", "source"),
    [
        (RequestError("bad", hint="mend it"), "llamafile-mgr"),
        (EngineRefusedError("bad", hint="mend it"), "engine"),
        (EngineLostError("bad", hint="mend it"), "engine"),
        (NotReadyError("bad", hint="mend it"), "llamafile-mgr"),
    ],
)
def test_errors_have_the_dialects_form_and_say_whose_they_are(error: Error, source: str) -> None:
    openai = render_error(error)["error"]
    assert (openai["message"], openai["src"]) == ("bad; mend it", source)
    for dialect in (OLLAMA, TEI):
        body = dialect.render_error(error)
        assert (body["error"], body["src"]) == ("bad; mend it", source)
    cohere = COHERE.render_error(error)
    assert (cohere["message"], cohere["src"]) == ("bad; mend it", source)


def test_error_types() -> None:
    assert render_error(NotReadyError("wait"))["error"]["type"] == "unavailable_error"
    assert render_error(RequestError("x"))["error"]["type"] == "invalid_request_error"
    assert render_error(EngineError("x"))["error"]["type"] == "server_error"
    assert TEI.render_error(NotReadyError("x"))["error_type"] == "unhealthy"
    assert TEI.render_error(RequestError("x"))["error_type"] == "validation"
    assert TEI.render_error(EngineError("x"))["error_type"] == "backend"


CHAT = "/v1/chat/completions"


def test_llama_index_chat_is_recognised_and_its_options_are_flattened() -> None:
    body = {"messages": [], "options": {"temperature": 0.5, "n_predict": 16}, "max_tokens": 16}
    style = style_of(CHAT, body)
    assert style is EventStyle.STRICT_CHAT
    assert prepare_body(CHAT, body, style) == {
        "messages": [],
        "temperature": 0.5,
        "n_predict": 16,
        "max_tokens": 16,
        "sse_ping_interval": -1,
    }


def test_only_known_keys_reach_an_engine() -> None:
    body = {"model": "m", "messages": [], "max_completion_tokens": 3, "options": {"a": 1}, "n_discard": -9}
    style = style_of(CHAT, body)
    assert style is EventStyle.STANDARD
    assert prepare_body(CHAT, body, style) == {
        "model": "m",
        "messages": [],
        "max_completion_tokens": 3,
        "max_tokens": 3,
    }
    assert style_of("/completion", {"prompt": "x"}) is EventStyle.COMPLETION


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
        {"messages": [{"content": [{"type": "image_url", "image_url": "http://x/"}]}]},
        {"messages": [], "top_k": -1},
        {"messages": [], "n_probs": -5},
    ],
)
def test_what_an_engine_must_not_read(body: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        prepare_body(CHAT, body, EventStyle.STANDARD)


def test_pictures_inside_the_request_pass() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    assert prepare_body(CHAT, body, EventStyle.STANDARD) == body
