"""The Cohere dialect: ``embed`` and ``rerank`` in two versions. Shapes: cohere 7.3 as recorded, its API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult, Truncation
from llamafile_mgr.errors import Error, RequestError
from llamafile_mgr.proxy.api_errors import error_source
from llamafile_mgr.proxy.dialects import fields
from llamafile_mgr.proxy.dialects.dialect import Dialect, EmbedCall, Form
from llamafile_mgr.proxy.dialects.rerank_forms import DOCUMENTS_FORM
from llamafile_mgr.proxy.dialects.schemas import body_schema, object_schema
from llamafile_mgr.proxy.http import Request
from llamafile_mgr.proxy.routes.embedding import embedding_route
from llamafile_mgr.proxy.routes.rerank import rerank_route


def _sign_bits(vector: NDArray[np.float32]) -> NDArray[np.uint8]:
    packed: NDArray[np.uint8] = np.packbits(vector > 0)
    return packed


#: The types that follow from a vector alone. int8 and uint8 need ranges of a whole collection.
_TYPES: dict[str, Callable[[NDArray[np.float32]], object]] = {
    "float": lambda vector: vector,
    "base64": fields.encode_base64,
    "ubinary": _sign_bits,
    "binary": lambda vector: (_sign_bits(vector).astype(np.int16) - 128).astype(np.int8),
}


def _parse(request: Request, body: dict[str, Any]) -> EmbedCall:
    """Parse a body with ``texts``, or v2's ``inputs`` of text contents.

    Raises:
        RequestError: no usable texts, or an embedding type that cannot be made here.
    """
    if "texts" in body:
        texts, _ = fields.read_texts(body, "texts")
    else:
        texts = _read_inputs(body)
    wanted = EmbedRequest(
        texts,
        input_type=fields.read_input_type(body, "input_type"),
        truncation=fields.read_truncation(body, "truncate", default=Truncation.RIGHT),
        dimensions=fields.read_dimensions(body, "output_dimension"),
    )
    types = _read_types(body, 1 if request.path.startswith("/v1") else 2)
    return EmbedCall(wanted, lambda result, _, __: _render(request.request_id, wanted, types, result))


def _read_types(body: dict[str, Any], version: int) -> tuple[str, ...] | None:
    """Return the embedding types, None for v1's bare list."""
    types = body.get("embedding_types")
    if types is None:
        return None if version == 1 else ("float",)
    if not isinstance(types, list) or not types:
        raise RequestError("'embedding_types' must be a list", hint=f"known: {', '.join(_TYPES)}")
    for kind in types:
        if not isinstance(kind, str) or kind not in _TYPES:
            raise RequestError(
                f"the embedding type {str(kind)[:20]!r} is not offered", hint=f"use {', '.join(_TYPES)}"
            )
    return tuple(dict.fromkeys(types))


def _read_inputs(body: dict[str, Any]) -> tuple[str, ...]:
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise RequestError("the body has no 'texts'", hint='send {"texts": ["..."]}')
    return tuple(_read_input(index, item) for index, item in enumerate(inputs))


def _read_input(index: int, item: object) -> str:
    contents = item.get("content") if isinstance(item, dict) else None
    if isinstance(contents, str):
        return contents
    if isinstance(contents, list) and len(contents) == 1 and isinstance(contents[0], dict):
        text = contents[0].get("text")
        if contents[0].get("type") == "text" and isinstance(text, str):
            return text
    raise RequestError(f"item {index} of 'inputs' must hold exactly one text content")


def _render(
    request_id: str, wanted: EmbedRequest, types: tuple[str, ...] | None, result: EmbedResult
) -> dict[str, Any]:
    embeddings: object = list(result.vectors)
    kind = "embeddings_floats"
    if types is not None:
        kind = "embeddings_by_type"
        embeddings = {each: [_TYPES[each](row) for row in result.vectors] for each in types}
    return {
        "id": request_id,
        "response_type": kind,
        "embeddings": embeddings,
        "texts": list(wanted.texts),
        "meta": {
            "api_version": {"version": "1" if types is None else "2"},
            "billed_units": {"input_tokens": result.prompt_tokens},
        },
    }


def _render_error(error: Error) -> dict[str, Any]:
    return {"message": error.describe(), "code": error.code, "src": error_source(error)}


_EMBED = Form(
    _parse,
    body_schema(
        ["texts"],
        texts="text list",
        input_type="input type",
        truncate={"enum": ["NONE", "START", "END"]},
        embedding_types={
            "type": "array",
            "minItems": 1,
            "items": {"enum": ["float", "base64", "binary", "ubinary"]},
        },
    ),
    claims=lambda _, body: "texts" in body,
)

COHERE = Dialect(
    "cohere",
    (
        embedding_route("/v1/embed", _EMBED),
        embedding_route("/v2/embed", _EMBED),
        rerank_route("/v1/rerank", DOCUMENTS_FORM),
        rerank_route("/v2/rerank", DOCUMENTS_FORM),
    ),
    _render_error,
    {**object_schema(message="text"), "required": ["message"]},
    embed=_EMBED,
)
