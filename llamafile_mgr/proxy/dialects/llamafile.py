"""The llamafile dialect: ``/embedding`` in the old shape that LangChain and LlamaIndex expect.

One text gives ``{"embedding": [...]}``, a list ``{"results": [{"embedding": [...]}, ...]}``, also a list of
one, where the old server itself answered the other shape and LlamaIndex failed (recorded).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult
from llamafile_mgr.proxy.dialects.texts import read_texts

__all__ = ["LlamafileEmbedding", "parse_embedding", "render_embedding"]


@dataclass(frozen=True, slots=True)
class LlamafileEmbedding:
    """A parsed ``/embedding`` call; ``many``: the texts came as a list."""

    request: EmbedRequest
    many: bool


def parse_embedding(body: dict[str, Any]) -> LlamafileEmbedding:
    """Parse a body with ``content``.

    Raises:
        RequestError: no usable ``content``.
    """
    texts, many = read_texts(body, "content")
    return LlamafileEmbedding(EmbedRequest(texts), many)


def render_embedding(call: LlamafileEmbedding, result: EmbedResult) -> dict[str, Any]:
    """Return the old shape; a list of one carries both forms."""
    if not call.many:
        return {"embedding": result.vectors[0]}
    answer: dict[str, Any] = {"results": [{"embedding": row} for row in result.vectors]}
    if len(result.vectors) == 1:
        answer["embedding"] = result.vectors[0]
    return answer
