"""The OpenAI dialect: ``/v1/embeddings``.

Shapes: openai-python 3.54, openai-node 6.49, voyageai 0.5 as recorded; Jina's fields from its API. Most ask
for base64 when the user names no format, and openai-node decodes a float list into garbage then, so the
format is honoured exactly.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.embedding.requests import Chunk, EmbedRequest, EmbedResult, Truncation
from llamafile_mgr.errors import RequestError
from llamafile_mgr.proxy.dialects.fields import (
    CHUNKS_FIELD,
    read_dimensions,
    read_flag,
    read_input_type,
    read_text,
    read_truncation,
)
from llamafile_mgr.proxy.dialects.outcomes import describe_outcome, failed
from llamafile_mgr.proxy.dialects.texts import read_texts

__all__ = ["OpenAIEmbedding", "encode_base64", "parse_embeddings", "render_embeddings"]

_FLOATS = ("float", "float32")


@dataclass(frozen=True, slots=True)
class OpenAIEmbedding:
    """A parsed ``/v1/embeddings`` call. ``base64``: the client wants little-endian float32 as base64."""

    request: EmbedRequest
    base64: bool


def parse_embeddings(body: dict[str, Any]) -> OpenAIEmbedding:
    """Parse the body of ``/v1/embeddings``; fields that we do not know are ignored.

    Raises:
        RequestError: no usable ``input``, or a field whose value cannot be honoured.
    """
    texts, _ = read_texts(body, "input")
    encoding = body.get("encoding_format", body.get("embedding_type", "float"))
    if encoding not in (*_FLOATS, "base64"):
        raise RequestError(f"encoding_format must be 'float' or 'base64', not {encoding!r}")
    dtype = body.get("output_dtype", "float")
    if dtype not in _FLOATS:
        raise RequestError(f"output_dtype must be 'float', not {dtype!r}")
    truncation = read_truncation(body, "truncate", "truncation", default=Truncation.ERROR)
    chunks = read_flag(body, CHUNKS_FIELD)
    if chunks and truncation is not Truncation.CHUNK:
        raise RequestError(
            f"{CHUNKS_FIELD!r} needs texts to be cut into chunks", hint='send "truncate": "chunk"'
        )
    request = EmbedRequest(
        texts,
        input_type=read_input_type(body, "input_type", "task"),
        task=read_text(body, "instruction") if "instruction" in body else None,
        truncation=truncation,
        dimensions=read_dimensions(body, "dimensions", "output_dimension"),
        keep_going=read_flag(body, "keep_going"),
        use_cache=read_flag(body, "use_cache", default=True),
        return_chunks=chunks,
    )
    return OpenAIEmbedding(request, base64=encoding == "base64")


def render_embeddings(call: OpenAIEmbedding, result: EmbedResult, model: str) -> dict[str, Any]:
    """Return the list object; numbers stay numpy rows for the serialiser."""
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _render_row(call, result, index),
                **describe_outcome(result, index),
                **_render_chunks(call, result, index),
            }
            for index in range(len(result.vectors))
        ],
        "model": model,
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
    }


def _render_row(call: OpenAIEmbedding, result: EmbedResult, index: int) -> object:
    if failed(result, index):
        return None
    return _render_vector(call, result.vectors[index])


def _render_vector(call: OpenAIEmbedding, vector: NDArray[np.float32]) -> object:
    return encode_base64(vector) if call.base64 else vector


def _render_chunks(call: OpenAIEmbedding, result: EmbedResult, index: int) -> dict[str, Any]:
    """Return the list of chunks, which takes the place of their number, where it was asked for."""
    if not result.chunks:
        return {}
    return {"chunks": [_render_chunk(call, chunk) for chunk in result.chunks[index]]}


def _render_chunk(call: OpenAIEmbedding, chunk: Chunk) -> dict[str, Any]:
    rendered: dict[str, Any] = {"start": chunk.start, "end": chunk.end}
    if chunk.tokens is not None:
        rendered["tokens"] = chunk.tokens
    return {**rendered, "embedding": _render_vector(call, chunk.vector)}


def encode_base64(vector: NDArray[np.float32]) -> str:
    """Return the vector's bytes as little-endian float32 in base64 without line breaks."""
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")
