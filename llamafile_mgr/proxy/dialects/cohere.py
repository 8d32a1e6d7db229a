"""The Cohere dialect: ``/v1/embed`` and ``/v2/embed``. Shapes: cohere 7.3 as recorded, and its API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult, Truncation
from llamafile_mgr.errors import RequestError
from llamafile_mgr.proxy.dialects.fields import read_dimensions, read_input_type, read_truncation
from llamafile_mgr.proxy.dialects.openai import encode_base64
from llamafile_mgr.proxy.dialects.texts import read_texts

__all__ = ["CohereEmbedding", "parse_embed", "render_embed"]


def _sign_bits(vector: NDArray[np.float32]) -> NDArray[np.uint8]:
    packed: NDArray[np.uint8] = np.packbits(vector > 0)
    return packed


#: The types that follow from a vector alone. int8 and uint8 need ranges of a whole collection.
_TYPES: dict[str, Callable[[NDArray[np.float32]], object]] = {
    "float": lambda vector: vector,
    "base64": encode_base64,
    "ubinary": _sign_bits,
    "binary": lambda vector: (_sign_bits(vector).astype(np.int16) - 128).astype(np.int8),
}


@dataclass(frozen=True, slots=True)
class CohereEmbedding:
    """A parsed call. ``types``: the embedding types, None for v1's bare list."""

    request: EmbedRequest
    types: tuple[str, ...] | None
    request_id: str


def parse_embed(body: dict[str, Any], version: int, request_id: str) -> CohereEmbedding:
    """Parse a body with ``texts``, or v2's ``inputs`` of text contents.

    Raises:
        RequestError: no usable texts, or an embedding type that cannot be made here.
    """
    if "texts" in body:
        texts, _ = read_texts(body, "texts")
    else:
        texts = _read_inputs(body)
    request = EmbedRequest(
        texts,
        input_type=read_input_type(body, "input_type"),
        truncation=read_truncation(body, "truncate", default=Truncation.RIGHT),
        dimensions=read_dimensions(body, "output_dimension"),
    )
    return CohereEmbedding(request, _read_types(body, version), request_id)


def _read_types(body: dict[str, Any], version: int) -> tuple[str, ...] | None:
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


def render_embed(call: CohereEmbedding, result: EmbedResult, model: str) -> dict[str, Any]:
    """Return v1's floats, or vectors by type."""
    embeddings: object = list(result.vectors)
    kind = "embeddings_floats"
    if call.types is not None:
        kind = "embeddings_by_type"
        embeddings = {each: [_TYPES[each](row) for row in result.vectors] for each in call.types}
    return {
        "id": call.request_id,
        "response_type": kind,
        "embeddings": embeddings,
        "texts": list(call.request.texts),
        "meta": {
            "api_version": {"version": "1" if call.types is None else "2"},
            "billed_units": {"input_tokens": result.prompt_tokens},
        },
    }
