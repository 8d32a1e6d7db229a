"""Reranking in three forms: Jina's and Cohere's ``documents``, and TEI's ``texts``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from llamafile_mgr.errors import RequestError
from llamafile_mgr.proxy.dialects.fields import read_flag, read_text, read_whole_number

__all__ = ["RerankCall", "parse_rerank", "render_rerank"]


@dataclass(frozen=True, slots=True)
class RerankCall:
    """A parsed call. ``tei``: the answer is a bare list. ``raw``: scores stay as the model gave them."""

    query: str
    documents: tuple[str, ...]
    top: int
    with_documents: bool
    tei: bool
    raw: bool


def parse_rerank(body: dict[str, Any]) -> RerankCall:
    """Parse a body with ``query`` and ``documents`` or ``texts``.

    Raises:
        RequestError: one of them is missing, empty or of another form.
    """
    tei = "documents" not in body and "texts" in body
    key = "texts" if tei else "documents"
    documents = body.get(key)
    if not isinstance(documents, list) or not documents:
        raise RequestError(
            f"{key!r} must be a list of texts", hint=f'send {{"query": "...", "{key}": [...]}}'
        )
    texts = tuple(_read_document(key, index, each) for index, each in enumerate(documents))
    top = next((name for name in ("top_n", "top_k") if name in body), None)
    return RerankCall(
        query=read_text(body, "query"),
        documents=texts,
        top=min(len(texts), read_whole_number(body, top, least=1)) if top else len(texts),
        with_documents=read_flag(body, "return_text" if tei else "return_documents"),
        tei=tei,
        raw=read_flag(body, "raw_scores"),
    )


def _read_document(key: str, index: int, document: object) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise RequestError(f"item {index} of {key!r} must be a text or an object with one")
    return text


def render_rerank(call: RerankCall, scores: list[float], model: str, request_id: str) -> Any:
    """Return the best documents first; scores lie between 0 and 1 unless raw ones were asked for."""
    shown = scores if call.raw else [_squash(score) for score in scores]
    order = sorted(range(len(shown)), key=lambda index: -shown[index])[: call.top]
    if call.tei:
        return [
            {"index": index, "score": shown[index], **_text(call, index, nested=False)} for index in order
        ]
    return {
        "id": request_id,
        "model": model,
        "results": [
            {"index": index, "relevance_score": shown[index], **_text(call, index, nested=True)}
            for index in order
        ],
        "meta": {"api_version": {"version": "2"}},
    }


def _text(call: RerankCall, index: int, *, nested: bool) -> dict[str, Any]:
    if not call.with_documents:
        return {}
    text = call.documents[index]
    return {"document": {"text": text}} if nested else {"text": text}


def _squash(score: float) -> float:
    """Return the logistic function of a score, without overflow."""
    if score >= 0:
        return 1.0 / (1.0 + math.exp(-score))
    power = math.exp(score)
    return power / (1.0 + power)
