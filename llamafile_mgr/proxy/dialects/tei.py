"""The dialect of Hugging Face's text-embeddings-inference: ``/embed``, ``/info``, and its shared routes.

Shapes: TEI's OpenAPI document and huggingface_hub 2.4, llama-index and chroma as recorded. Several of its
clients never look at the status, so a good answer is a bare list and nothing else is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.requests import EmbedRequest, Truncation
from llamafile_mgr.errors import Error, NotReadyError, RequestError
from llamafile_mgr.proxy.api_errors import UnsupportedError, error_source
from llamafile_mgr.proxy.dialects import fields
from llamafile_mgr.proxy.dialects.dialect import (
    Answer,
    Dialect,
    EmbedCall,
    Form,
    RerankCall,
    Route,
    TokenizeCall,
)
from llamafile_mgr.proxy.dialects.rerank_forms import read_rerank
from llamafile_mgr.proxy.dialects.schemas import body_schema, object_schema
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.http import Padding, Reply, Request, json_reply
from llamafile_mgr.proxy.routes.embedding import embedding_route

#: Its clients wait 5 seconds for the next byte when chroma makes them.
_HOLD_SECONDS = 3.0
_DIRECTIONS = {"right": Truncation.RIGHT, "left": Truncation.LEFT}


def _parse_embed(request: Request, body: dict[str, Any]) -> EmbedCall:
    """Parse the body of ``/embed``.

    Raises:
        RequestError: no usable ``inputs``, or ``normalize: false``, which would be another vector space.
    """
    texts, _ = fields.read_texts(body, "inputs")
    if not fields.read_flag(body, "normalize", default=True):
        raise RequestError("vectors are always of unit length here", hint="leave 'normalize' out")
    direction = _DIRECTIONS.get(fields.read_text(body, "truncation_direction", "right").lower())
    if direction is None:
        raise RequestError("'truncation_direction' must be Left or Right")
    cut = fields.read_flag(body, "truncate")
    wanted = EmbedRequest(
        texts,
        truncation=direction if cut else Truncation.ERROR,
        dimensions=fields.read_dimensions(body, "dimensions"),
    )
    return EmbedCall(wanted, lambda result, _, __: list(result.vectors))


async def _info(front: Front, request: Request) -> Reply:
    choice = front.choose(Role.EMBED, None, request, Padding.NONE)
    plan = choice.pool.plan
    pooling = plan.settings.pooling
    info = {
        "model_id": plan.name,
        "model_sha": plan.weights_digest,
        "model_dtype": (plan.quantisation or "unknown").lower(),
        "model_type": {"embedding": {"pooling": pooling.value if pooling else "unknown"}},
        "max_concurrent_requests": 512,
        "max_input_length": plan.max_tokens,
        "max_batch_tokens": plan.settings.context * plan.settings.slots,
        "max_client_batch_size": 4096,
        "auto_truncate": False,
        "tokenization_workers": plan.settings.threads,
        "version": __version__,
        "served_by": "llamafile-mgr",
    }
    return json_reply(info, headers=choice.headers())


def _parse_tokenize(request: Request, body: dict[str, Any]) -> TokenizeCall:
    texts, _ = fields.read_texts(body, "inputs")
    special = fields.read_flag(body, "add_special_tokens", default=True)
    return TokenizeCall(texts, special, pieces=True, marked=True, render=_render_tokens)


def _render_tokens(lists: list[list[Any]]) -> object:
    """Return the texts' tokens; the engine tells no offsets, so ``start`` and ``stop`` are null."""
    return [
        [
            {"id": each["id"], "text": each["piece"], "special": each["special"], "start": None, "stop": None}
            for each in tokens
        ]
        for tokens in lists
    ]


def _parse_rerank(request: Request, body: dict[str, Any]) -> RerankCall:
    return read_rerank(body, "texts", "return_text", _render_rerank)


def _render_rerank(
    call: RerankCall, best: Sequence[tuple[int, float]], model: str, request_id: str
) -> object:
    return [
        {"index": index, "score": score, **({"text": call.documents[index]} if call.with_documents else {})}
        for index, score in best
    ]


def _refuse(why: str) -> Answer:
    async def refuse(front: Front, request: Request) -> Reply:
        raise UnsupportedError(why, hint="POST /embed gives one vector a text")

    return refuse


def _render_error(error: Error) -> dict[str, Any]:
    """Return the error; ``error`` is a text: clients print it."""
    kind = "validation" if error.http_status < 500 else "backend"
    if isinstance(error, NotReadyError):
        kind = "unhealthy"
    elif error.http_status == 429:
        kind = "overloaded"
    return {"error": error.describe(), "error_type": kind, "code": error.code, "src": error_source(error)}


_EMBED = Form(
    _parse_embed,
    body_schema(
        ["inputs"],
        inputs="texts",
        truncate="flag",
        truncation_direction={"enum": ["Left", "Right"]},
        normalize={"enum": [True]},
    ),
    claims=lambda _, body: "inputs" in body,
)

TEI = Dialect(
    "tei",
    (
        embedding_route("/embed", _EMBED, shared=True, hold_seconds=_HOLD_SECONDS),
        Route("POST", "/embed_all", _refuse("vectors of single tokens are not offered")),
        Route("POST", "/embed_sparse", _refuse("sparse vectors are not offered")),
        Route("GET", "/info", _info),
    ),
    _render_error,
    {**object_schema(error="text"), "required": ["error", "error_type"]},
    embed=_EMBED,
    rerank=Form(
        _parse_rerank,
        body_schema(["query", "texts"], query="text", texts="text list", raw_scores="flag"),
        claims=lambda _, body: "texts" in body and "documents" not in body,
    ),
    tokenize=Form(
        _parse_tokenize,
        body_schema(["inputs"], inputs="texts", add_special_tokens="flag"),
        claims=lambda _, body: "inputs" in body and "content" not in body,
    ),
)
