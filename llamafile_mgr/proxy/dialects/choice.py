"""Which dialect an embedding call speaks: the body's key names it, the path breaks ties. Pure.

Recorded: langroid posts ``content`` to ``/embeddings``, OpenAI's clients without ``/v1`` post ``input``
there, and Emacs posts ``input`` to ``/embedding``; each wants the shape of its key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult
from llamafile_mgr.proxy.dialects import cohere, llamafile, ollama, openai, tei
from llamafile_mgr.proxy.dialects.fields import refuse_chunks

__all__ = ["EmbedCall", "parse_call"]


@dataclass(frozen=True, slots=True)
class EmbedCall:
    """A parsed call and what renders its answer. ``render`` takes the result, the model's name and the
    seconds that the call took."""

    request: EmbedRequest
    render: Callable[[EmbedResult, str, float], object]


def parse_call(path: str, body: dict[str, Any], *, request_id: str, new_list: bool) -> EmbedCall:
    """Parse ``body`` in the dialect that it speaks. ``new_list``: answer ``content`` as llama.cpp now does.

    Raises:
        RequestError: no usable texts.
    """
    if _speaks_openai(path, body, new_list):
        return _openai_call(path, body)
    refuse_chunks(body)
    if path.startswith("/api/"):
        old = ollama.parse_embed(body)
        return EmbedCall(old.request, partial(ollama.render_embed, old))
    if _speaks_cohere(path, body):
        call = cohere.parse_embed(body, 1 if path.startswith("/v1") else 2, request_id)
        return EmbedCall(call.request, lambda result, model, _: cohere.render_embed(call, result, model))
    if "inputs" in body:
        return EmbedCall(tei.parse_embed(body), lambda result, model, _: tei.render_embed(result, model))
    return _llamafile_call(body, new_list)


def _speaks_cohere(path: str, body: dict[str, Any]) -> bool:
    return "texts" in body or (path.startswith("/v") and path.endswith("/embed"))


def _speaks_openai(path: str, body: dict[str, Any], new_list: bool) -> bool:
    if path.startswith("/api/") or _speaks_cohere(path, body) or "inputs" in body:
        return False
    if "input" not in body and ("content" in body or "prompt" in body or path == "/embedding"):
        return False
    return not (path == "/embedding" and new_list)


def _llamafile_call(body: dict[str, Any], new_list: bool) -> EmbedCall:
    key = next((key for key in ("content", "prompt", "input") if key in body), "content")
    call = llamafile.parse_embedding(body, key)
    render = llamafile.render_list if new_list else llamafile.render_embedding
    return EmbedCall(call.request, lambda result, model, _: render(call, result, model))


def _openai_call(path: str, body: dict[str, Any]) -> EmbedCall:
    call = openai.parse_embeddings(body)

    def render(result: EmbedResult, model: str, _: float) -> object:
        answer = openai.render_embeddings(call, result, model)
        if path == "/embedding" and len(result.vectors) == 1:
            answer["embedding"] = answer["data"][0]["embedding"]
        return answer

    return EmbedCall(call.request, render)
