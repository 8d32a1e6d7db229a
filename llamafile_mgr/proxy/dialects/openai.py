"""The OpenAI dialect: embeddings, chat, completions, responses, and the list of models.

Shapes: openai-python 3.54, openai-node 6.49, voyageai 0.5 as recorded; Jina's fields from its API. Most ask
for base64 when the user names no format, and openai-node decodes a float list into garbage then, so the
format is honoured exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult, TextChunk, Truncation
from llamafile_mgr.errors import RequestError
from llamafile_mgr.proxy.api_errors import UnknownModelError
from llamafile_mgr.proxy.dialects import fields
from llamafile_mgr.proxy.dialects.dialect import Dialect, EmbedCall, Form, Route
from llamafile_mgr.proxy.dialects.outcomes import describe_outcome, failed
from llamafile_mgr.proxy.dialects.schemas import SAMPLING, body_schema
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.http import Reply, Request, json_reply
from llamafile_mgr.proxy.routes.embedding import embedding_route
from llamafile_mgr.proxy.routes.generation import generation_route
from llamafile_mgr.supervisor.pool import Pool

_FLOATS = ("float", "float32")
_NO_TOKENS = "send texts; for langchain-openai set check_embedding_ctx_length=False"
#: Clients of the old server's route post ``input`` there and read ``embedding``.
_OLD_PATH = "/embedding"


def _parse(request: Request, body: dict[str, Any]) -> EmbedCall:
    """Parse the body of ``/v1/embeddings``; fields that we do not know are ignored.

    Raises:
        RequestError: no usable ``input``, or a field whose value cannot be honoured.
    """
    texts, _ = fields.read_texts(body, "input", advice=_NO_TOKENS)
    encoding = body.get("encoding_format", body.get("embedding_type", "float"))
    if encoding not in (*_FLOATS, "base64"):
        raise RequestError(f"encoding_format must be 'float' or 'base64', not {encoding!r}")
    dtype = body.get("output_dtype", "float")
    if dtype not in _FLOATS:
        raise RequestError(f"output_dtype must be 'float', not {dtype!r}")
    truncation = fields.read_truncation(body, "truncate", "truncation", default=Truncation.ERROR)
    chunks = fields.read_flag(body, fields.CHUNKS_FIELD)
    if chunks and truncation is not Truncation.CHUNK:
        raise RequestError(
            f"{fields.CHUNKS_FIELD!r} needs texts to be cut into chunks", hint='send "truncate": "chunk"'
        )
    wanted = EmbedRequest(
        texts,
        input_type=fields.read_input_type(body, "input_type", "task"),
        task=fields.read_text(body, "instruction") if "instruction" in body else None,
        truncation=truncation,
        dimensions=fields.read_dimensions(body, "dimensions", "output_dimension"),
        keep_going=fields.read_flag(body, "keep_going"),
        use_cache=fields.read_flag(body, "use_cache", default=True),
        return_chunks=chunks,
    )
    rows = _Rows(base64=encoding == "base64", bare=request.path == _OLD_PATH)
    return EmbedCall(wanted, lambda result, model, _: rows.render(result, model))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Renders vectors. ``base64``: as little-endian float32. ``bare``: a single one also stands by itself."""

    base64: bool
    bare: bool

    def render(self, result: EmbedResult, model: str) -> dict[str, Any]:
        """Return the list object; numbers stay numpy rows for the serialiser."""
        rows = [self._row(result, index) for index in range(len(result.vectors))]
        return {
            "object": "list",
            "data": rows,
            "model": model,
            "usage": {
                "prompt_tokens": result.prompt_tokens,
                "total_tokens": result.prompt_tokens,
                **({"estimated": True} if result.estimated else {}),
            },
            **({"embedding": rows[0]["embedding"]} if self.bare and len(rows) == 1 else {}),
        }

    def _row(self, result: EmbedResult, index: int) -> dict[str, Any]:
        vector = None if failed(result, index) else self._vector(result.vectors[index])
        row = {"object": "embedding", "index": index, "embedding": vector, **describe_outcome(result, index)}
        if result.chunks:  # their list takes the place of their number
            row["chunks"] = [self._chunk(chunk) for chunk in result.chunks[index]]
        return row

    def _chunk(self, chunk: TextChunk) -> dict[str, Any]:
        tokens = {} if chunk.tokens is None else {"tokens": chunk.tokens}
        return {"start": chunk.start, "end": chunk.end, **tokens, "embedding": self._vector(chunk.vector)}

    def _vector(self, vector: NDArray[np.float32]) -> object:
        return fields.encode_base64(vector) if self.base64 else vector


async def _models(front: Front, request: Request) -> Reply:
    data = [_describe(front, pool) for pool in front.pools]
    return json_reply({"object": "list", "data": data})


async def _model(front: Front, request: Request) -> Reply:
    name = request.path.removeprefix("/v1/models/")
    pool = front.router.find(name)
    if pool is None:
        raise UnknownModelError(f"no model {name[:200]!r} is served")
    return json_reply(_describe(front, pool))


def _describe(front: Front, pool: Pool) -> dict[str, Any]:
    """Return an entry of the list of models, with what an embedding client needs to know in ``meta``."""
    plan = pool.plan
    return {
        "id": plan.name,
        "object": "model",
        "created": int(front.started),
        "owned_by": "llamafile-mgr",
        "meta": {**front.describe(pool), "slots": plan.settings.slots, "remotes": len(plan.remotes)},
    }


_EMBED = Form(
    _parse,
    body_schema(
        ["input"],
        input="texts",
        encoding_format={"enum": ["float", "base64"]},
        dimensions="count",
        user="text",
        input_type="input type",
        truncate="truncation",
        keep_going="flag",
        return_chunks="flag",
    ),
    claims=lambda _, body: "input" in body,
)
_CHAT = body_schema(["messages"], messages="messages", max_tokens="limit", **SAMPLING)
_COMPLETIONS = body_schema(["prompt"], prompt="text", max_tokens="limit", **SAMPLING)

OPENAI = Dialect(
    "openai",
    (
        Route("GET", "/v1/models", _models),
        Route("GET", "/models", _models),
        Route("GET", "/v1/models/{name}", _model),
        embedding_route("/v1/embeddings", _EMBED, shared=True),
        embedding_route("/embeddings", _EMBED, shared=True),
        generation_route("/v1/chat/completions", "/v1/chat/completions", _CHAT),
        generation_route("/chat/completions", "/v1/chat/completions", _CHAT),
        generation_route("/v1/completions", "/v1/completions", _COMPLETIONS),
        generation_route("/completions", "/v1/completions", _COMPLETIONS),
        generation_route("/v1/responses", "/v1/responses"),
        generation_route("/responses", "/v1/responses"),
    ),
    embed=_EMBED,
)
