"""The OpenAPI document of our own routes, made from the table of routes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.proxy.dialects.errors import Dialect
from llamafile_mgr.proxy.front import Route
from llamafile_mgr.proxy.routes.embedding import EMBEDDING_PATHS

__all__ = ["render_openapi"]

_TEXT: dict[str, Any] = {"type": "string"}
_FLAG: dict[str, Any] = {"type": "boolean"}
_TEXTS: dict[str, Any] = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
_TEXT_LIST: dict[str, Any] = {"type": "array", "items": _TEXT, "minItems": 1}
_WHOLE: dict[str, Any] = {"type": "integer", "minimum": 1}
_OBJECT: dict[str, Any] = {"type": "object"}
_MESSAGES: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": _TEXT},
    },
}
_INPUT_TYPE: dict[str, Any] = {"enum": ["query", "document", "search_query", "search_document", "none"]}
_TRUNCATE: dict[str, Any] = {"anyOf": [_FLAG, {"enum": ["none", "right", "left", "chunk"]}]}
_SPACE: dict[str, Any] = {
    "type": "string",
    "description": "Fingerprints of the vector spaces that fit the caller's index, as in If-Match",
}
_LIMIT: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 64}
_COMMON: dict[str, Any] = {"model": _TEXT}
_OPTIONS: dict[str, Any] = {
    "type": "object",
    "properties": {"num_predict": _LIMIT, "temperature": {"type": "number", "minimum": 0, "maximum": 2}},
}
_SAMPLING: dict[str, Any] = {
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**31},
    "stream": _FLAG,
}


def _schema(required: Sequence[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**_COMMON, **properties}}


_OPENAI = _schema(
    ["input"],
    input=_TEXTS,
    encoding_format={"enum": ["float", "base64"]},
    dimensions=_WHOLE,
    user=_TEXT,
    input_type=_INPUT_TYPE,
    truncate=_TRUNCATE,
    keep_going=_FLAG,
    return_chunks=_FLAG,
)
_LLAMAFILE = _schema(["content"], content=_TEXTS, input_type=_INPUT_TYPE, truncate=_TRUNCATE)
_COHERE = _schema(
    ["texts"],
    texts=_TEXT_LIST,
    input_type=_INPUT_TYPE,
    truncate={"enum": ["NONE", "START", "END"]},
    embedding_types={
        "type": "array",
        "minItems": 1,
        "items": {"enum": ["float", "base64", "binary", "ubinary"]},
    },
)
_CHAT = _schema(["messages"], messages=_MESSAGES, max_tokens=_LIMIT, **_SAMPLING)
_COMPLETIONS = _schema(["prompt"], prompt=_TEXT, max_tokens=_LIMIT, **_SAMPLING)
_RERANK = {
    "anyOf": [
        _schema(["query", "documents"], query=_TEXT, documents=_TEXT_LIST, top_n=_WHOLE),
        _schema(["query", "texts"], query=_TEXT, texts=_TEXT_LIST, raw_scores=_FLAG),
    ]
}

#: Path -> schema of its body. Unknown keys and nulls are dropped everywhere.
_BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": _OPENAI,
    "/embeddings": {"anyOf": [_OPENAI, _LLAMAFILE]},
    "/embedding": {"anyOf": [_LLAMAFILE, _OPENAI]},
    "/api/embed": _schema(["input"], input=_TEXTS, truncate=_FLAG, dimensions=_WHOLE, options=_OBJECT),
    "/api/embeddings": _schema(["prompt"], prompt=_TEXT),
    "/embed": _schema(
        ["inputs"],
        inputs=_TEXTS,
        truncate=_FLAG,
        truncation_direction={"enum": ["Left", "Right"]},
        normalize={"enum": [True]},
    ),
    "/v1/embed": _COHERE,
    "/v2/embed": _COHERE,
    "/v1/chat/completions": _CHAT,
    "/chat/completions": _CHAT,
    "/v1/completions": _COMPLETIONS,
    "/completions": _COMPLETIONS,
    "/completion": _schema(["prompt"], prompt=_TEXT, n_predict=_LIMIT, **_SAMPLING),
    "/api/chat": _schema(["messages"], messages=_MESSAGES, stream=_FLAG, options=_OPTIONS),
    "/api/generate": _schema(["prompt"], prompt=_TEXT, system=_TEXT, stream=_FLAG, options=_OPTIONS),
    "/tokenize": {
        "anyOf": [
            _schema(["content"], content=_TEXT, add_special=_FLAG, with_pieces=_FLAG),
            _schema(["inputs"], inputs=_TEXTS, add_special_tokens=_FLAG),
        ]
    },
    "/detokenize": _schema(
        ["tokens"], tokens={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 200}}
    ),
    "/rerank": _RERANK,
    "/v1/rerank": _RERANK,
    "/v2/rerank": _RERANK,
    "/api/show": _schema(["model"]),
    "/api/pull": _schema(["model"]),
}

_ERRORS: dict[Dialect, dict[str, Any]] = {
    Dialect.OPENAI: {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "object", "required": ["message", "type", "code", "src"]}},
    },
    Dialect.OLLAMA: {"type": "object", "required": ["error"], "properties": {"error": _TEXT}},
    Dialect.TEI: {"type": "object", "required": ["error", "error_type"], "properties": {"error": _TEXT}},
    Dialect.COHERE: {"type": "object", "required": ["message"], "properties": {"message": _TEXT}},
}
_STATUSES = {
    "200": "The answer",
    "400": "The request cannot be answered as it was sent",
    "401": "An API key is needed",
    "403": "A foreign host or origin, or the administrator's route",
    "404": "No such model",
    "409": "The vectors would be of another space than If-Vector-Space names; x-vector-space says of which",
    "408": "The body did not come in time",
    "413": "The body is too large",
    "429": "The queue is full; Retry-After says when to come back",
    "502": "The engine failed",
    "503": "The model is not ready; Retry-After says when to come back",
    "504": "There was no answer in time",
}


def render_openapi(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the document, OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _describe(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "llamafile-mgr", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _describe(route: Route) -> dict[str, Any]:
    error = {"application/json": {"schema": _ERRORS[route.dialect]}}
    described: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{route.path.replace('/', '_').strip('{}')}",
        "tags": [route.dialect.value],
        "responses": {
            status: {"description": text} if status == "200" else {"description": text, "content": error}
            for status, text in _STATUSES.items()
        },
        "security": [] if route.access.public else [{}, {"key": []}],
    }
    if "{name}" in route.path:
        described["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": _TEXT}]
    if route.path in EMBEDDING_PATHS:
        described["parameters"] = [{"name": "If-Vector-Space", "in": "header", "schema": _SPACE}]
    if route.method == "POST":
        schema = _BODIES.get(route.path, _OBJECT)
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described
