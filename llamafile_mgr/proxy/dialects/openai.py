"""The OpenAI dialect: ``/v1/embeddings``, ``/v1/models`` and its error object.

Shapes: openai-python 3.54 and openai-node 6.49 as recorded. Both ask for base64 when the user names no
format, and openai-node decodes a float list into garbage then, so the format is honoured exactly.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult
from llamafile_mgr.errors import Error, NotReadyError, RequestError
from llamafile_mgr.proxy.dialects.texts import read_texts

__all__ = ["OpenAIEmbedding", "encode_base64", "parse_embeddings", "render_embeddings", "render_error"]


@dataclass(frozen=True, slots=True)
class OpenAIEmbedding:
    """A parsed ``/v1/embeddings`` call. ``base64``: the client wants little-endian float32 as base64."""

    request: EmbedRequest
    base64: bool


def parse_embeddings(body: dict[str, Any]) -> OpenAIEmbedding:
    """Parse the body of ``/v1/embeddings``; fields that we do not know are ignored.

    Raises:
        RequestError: no usable ``input``, an unknown ``encoding_format``, or ``dimensions``, which would
            be ignored otherwise.
    """
    texts, _ = read_texts(body, "input")
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise RequestError(f"encoding_format must be 'float' or 'base64', not {encoding!r}")
    if "dimensions" in body:
        raise RequestError("'dimensions' cannot be chosen", hint="leave it out to get the model's own")
    return OpenAIEmbedding(EmbedRequest(texts), base64=encoding == "base64")


def render_embeddings(call: OpenAIEmbedding, result: EmbedResult, model: str) -> dict[str, Any]:
    """Return the list object; numbers stay numpy rows for the serialiser."""
    rows = [encode_base64(row) if call.base64 else row for row in result.vectors]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": model,
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
    }


def encode_base64(vector: NDArray[np.float32]) -> str:
    """Return the vector's bytes as little-endian float32 in base64 without line breaks."""
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")


def render_error(error: Error) -> dict[str, Any]:
    """Return the error object; ``src`` tells our errors from an engine's."""
    kind = "invalid_request_error" if error.http_status < 500 else "server_error"
    if isinstance(error, NotReadyError):
        kind = "unavailable_error"
    return {
        "error": {
            "message": error.describe(),
            "type": kind,
            "code": error.code,
            "param": None,
            "src": "llamafile-mgr",
        }
    }
