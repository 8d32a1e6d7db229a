"""Reranking: what its forms share, and the form with ``documents``, which is Jina's and llama.cpp's too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llamafile_mgr.errors import RequestError
from llamafile_mgr.proxy.dialects import fields
from llamafile_mgr.proxy.dialects.dialect import Form, RerankCall, RerankRenderer
from llamafile_mgr.proxy.dialects.schemas import body_schema
from llamafile_mgr.proxy.http import Request


def _parse(request: Request, body: dict[str, Any]) -> RerankCall:
    return read_rerank(body, "documents", "return_documents", _render)


def _render(call: RerankCall, best: Sequence[tuple[int, float]], model: str, request_id: str) -> object:
    results = [
        {
            "index": index,
            "relevance_score": score,
            **({"document": {"text": call.documents[index]}} if call.with_documents else {}),
        }
        for index, score in best
    ]
    return {"id": request_id, "model": model, "results": results, "meta": {"api_version": {"version": "2"}}}


DOCUMENTS_FORM = Form(
    _parse,
    body_schema(["query", "documents"], query="text", documents="text list", top_n="count"),
    claims=lambda _, body: "documents" in body,
)


def read_rerank(body: dict[str, Any], key: str, text_flag: str, render: RerankRenderer) -> RerankCall:
    """Read a body with ``query`` and its documents under ``key``; ``text_flag`` asks to have them back.

    Raises:
        RequestError: one of them is missing, empty or of another form.
    """
    documents = body.get(key)
    if not isinstance(documents, list) or not documents:
        raise RequestError(
            f"{key!r} must be a list of texts", hint=f'send {{"query": "...", "{key}": [...]}}'
        )
    texts = tuple(_read_document(key, index, each) for index, each in enumerate(documents))
    top = next((name for name in ("top_n", "top_k") if name in body), None)
    return RerankCall(
        query=fields.read_text(body, "query"),
        documents=texts,
        top=min(len(texts), fields.read_whole_number(body, top, least=1)) if top else len(texts),
        with_documents=fields.read_flag(body, text_flag),
        raw=fields.read_flag(body, "raw_scores"),
        render=render,
    )


def _read_document(key: str, index: int, document: object) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise RequestError(f"item {index} of {key!r} must be a text or an object with one")
    return text


def best_documents(call: RerankCall, scores: list[float]) -> list[tuple[int, float]]:
    """Return the best documents first; scores lie between 0 and 1 unless raw ones were asked for."""
    shown = scores if call.raw else [_squash(score) for score in scores]
    return sorted(enumerate(shown), key=lambda pair: -pair[1])[: call.top]


def _squash(score: float) -> float:
    """Return the logistic function of a score, without overflow."""
    if score >= 0:
        return 1.0 / (1.0 + math.exp(-score))
    power = math.exp(score)
    return power / (1.0 + power)
