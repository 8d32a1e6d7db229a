"""The llamafile dialect, also llama.cpp's; embeddings in the old shape that LangChain and LlamaIndex expect.

One text gives ``{"embedding": [...]}``, a list ``{"results": [{"embedding": [...]}, ...]}``, also a list of
one, where the old server itself answered the other shape and LlamaIndex failed (recorded). The list of
llama.cpp's present server, ``[{"index": 0, "embedding": [[...]]}]``, is given on request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult, Truncation
from llamafile_mgr.proxy.dialects import fields
from llamafile_mgr.proxy.dialects.dialect import Dialect, EmbedCall, Form, Route, TokenizeCall
from llamafile_mgr.proxy.dialects.outcomes import describe_outcome, failed
from llamafile_mgr.proxy.dialects.rerank_forms import DOCUMENTS_FORM
from llamafile_mgr.proxy.dialects.schemas import SAMPLING, body_schema
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.http import Padding, Reply, Request, json_reply
from llamafile_mgr.proxy.routes.embedding import embedding_route
from llamafile_mgr.proxy.routes.generation import generation_route
from llamafile_mgr.proxy.routes.rerank import rerank_route
from llamafile_mgr.proxy.routes.tokens import detokenize, tokenize_route

_KEYS = ("content", "prompt", "input")


def _wants_list(request: Request) -> bool:
    """Tell whether the list of llama.cpp's present server is asked for."""
    return request.query.get("shape") == "list"


def _claims(request: Request, body: Mapping[str, Any]) -> bool:
    asked = request.path == "/embedding" and _wants_list(request)
    return asked or ("input" not in body and ("content" in body or "prompt" in body))


def _parse_embed(request: Request, body: dict[str, Any]) -> EmbedCall:
    """Parse a body with its texts under any of the keys.

    Raises:
        RequestError: no usable texts, or a field whose value cannot be honoured.
    """
    texts, many = fields.read_texts(body, next((key for key in _KEYS if key in body), "content"))
    wanted = EmbedRequest(
        texts,
        input_type=fields.read_input_type(body, "input_type"),
        truncation=fields.read_truncation(body, "truncate", default=Truncation.ERROR),
        dimensions=fields.read_dimensions(body, "dimensions"),
        keep_going=fields.read_flag(body, "keep_going"),
        use_cache=fields.read_flag(body, "use_cache", default=True),
    )
    as_list = _wants_list(request)
    return EmbedCall(wanted, lambda result, _, __: _render_embed(result, many, as_list))


def _render_embed(result: EmbedResult, many: bool, as_list: bool) -> object:
    rows = [_render_row(result, index) for index in range(len(result.vectors))]
    if as_list:  # one nested row per text
        return [{"index": index, **row, "embedding": [row["embedding"]]} for index, row in enumerate(rows)]
    if not many:
        return rows[0]
    return {"results": rows, **({"embedding": rows[0]["embedding"]} if len(rows) == 1 else {})}


def _render_row(result: EmbedResult, index: int) -> dict[str, Any]:
    vector = None if failed(result, index) else result.vectors[index]
    return {"embedding": vector, **describe_outcome(result, index)}


async def _props(front: Front, request: Request) -> Reply:
    """Tell what clients of llama.cpp's server read; paths of this machine stay here."""
    role = Role.GENERATE if any(p.plan.role is Role.GENERATE for p in front.pools) else Role.EMBED
    choice = front.choose(role, None, request, Padding.NONE)
    plan = choice.pool.plan
    props = {
        "default_generation_settings": {"n_ctx": plan.settings.context, "params": {}},
        "total_slots": plan.settings.slots,
        "model_alias": plan.name,
        "model_path": plan.name,
        "chat_template": "",
        "modalities": {"vision": False, "audio": False},
        "build_info": f"llamafile-mgr ({plan.family.value})",
    }
    return json_reply(props, headers=choice.headers())


def _parse_tokenize(request: Request, body: dict[str, Any]) -> TokenizeCall:
    text, pieces = fields.read_text(body, "content", ""), fields.read_flag(body, "with_pieces")
    special = fields.read_flag(body, "add_special")
    return TokenizeCall((text,), special, pieces, marked=False, render=lambda lists: {"tokens": lists[0]})


_EMBED = Form(
    _parse_embed,
    body_schema(["content"], content="texts", input_type="input type", truncate="truncation"),
    _claims,
)
_TOKENIZE = Form(
    _parse_tokenize,
    body_schema(["content"], content="text", add_special="flag", with_pieces="flag"),
    claims=lambda _, body: "content" in body,
)

LLAMAFILE = Dialect(
    "llamafile",
    (
        embedding_route("/embedding", _EMBED, shared=True),
        generation_route(
            "/completion",
            "/completion",
            body_schema(["prompt"], prompt="text", n_predict="limit", **SAMPLING),
        ),
        tokenize_route("/tokenize", _TOKENIZE),
        Route(
            "POST",
            "/detokenize",
            detokenize,
            body_schema(
                ["tokens"],
                tokens={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 200}},
            ),
        ),
        rerank_route("/rerank", DOCUMENTS_FORM),
        rerank_route("/reranking", DOCUMENTS_FORM),
        rerank_route("/v1/reranking", DOCUMENTS_FORM),
        Route("GET", "/props", _props),
    ),
    embed=_EMBED,
    tokenize=_TOKENIZE,
    rerank=DOCUMENTS_FORM,
)
