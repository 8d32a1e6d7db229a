"""The dialect of Hugging Face's text-embeddings-inference: ``/embed``, ``/info``, its ``/tokenize``.

Shapes: TEI's OpenAPI document and huggingface_hub 2.4, llama-index and chroma as recorded. Several of its
clients never look at the status, so a good answer is a bare list and nothing else is.
"""

from __future__ import annotations

from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult, Truncation
from llamafile_mgr.errors import RequestError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.proxy.dialects.fields import read_dimensions, read_flag, read_text
from llamafile_mgr.proxy.dialects.texts import read_texts

__all__ = ["parse_embed", "render_embed", "render_info", "render_tokens"]

_DIRECTIONS = {"right": Truncation.RIGHT, "left": Truncation.LEFT}


def parse_embed(body: dict[str, Any]) -> EmbedRequest:
    """Parse the body of ``/embed``.

    Raises:
        RequestError: no usable ``inputs``, or ``normalize: false``, which would be another vector space.
    """
    texts, _ = read_texts(body, "inputs")
    if not read_flag(body, "normalize", default=True):
        raise RequestError("vectors are always of unit length here", hint="leave 'normalize' out")
    direction = _DIRECTIONS.get(read_text(body, "truncation_direction", "right").lower())
    if direction is None:
        raise RequestError("'truncation_direction' must be Left or Right")
    cut = read_flag(body, "truncate")
    return EmbedRequest(
        texts,
        truncation=direction if cut else Truncation.ERROR,
        dimensions=read_dimensions(body, "dimensions"),
    )


def render_embed(result: EmbedResult, model: str) -> list[Any]:
    """Return the bare list of vectors."""
    return list(result.vectors)


def render_info(plan: Plan) -> dict[str, Any]:
    """Return what ``/info`` tells of the embedding model."""
    pooling = plan.settings.pooling
    return {
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


def render_tokens(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one text's tokens; the engine tells no offsets, so ``start`` and ``stop`` are null."""
    return [
        {"id": token["id"], "text": token["piece"], "special": token["special"], "start": None, "stop": None}
        for token in tokens
    ]
