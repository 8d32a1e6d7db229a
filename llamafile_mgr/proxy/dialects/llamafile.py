"""The llamafile dialect: ``/embedding`` in the old shape that LangChain and LlamaIndex expect.

One text gives ``{"embedding": [...]}``, a list ``{"results": [{"embedding": [...]}, ...]}``, also a list of
one, where the old server itself answered the other shape and LlamaIndex failed (recorded). The list of
llama.cpp's present server, ``[{"index": 0, "embedding": [[...]]}]``, is given on request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult, Truncation
from llamafile_mgr.proxy.dialects.fields import read_dimensions, read_flag, read_input_type, read_truncation
from llamafile_mgr.proxy.dialects.outcomes import describe_outcome, failed
from llamafile_mgr.proxy.dialects.texts import read_texts

__all__ = ["LlamafileEmbedding", "parse_embedding", "render_embedding", "render_list"]


@dataclass(frozen=True, slots=True)
class LlamafileEmbedding:
    """A parsed ``/embedding`` call; ``many``: the texts came as a list."""

    request: EmbedRequest
    many: bool


def parse_embedding(body: dict[str, Any], key: str = "content") -> LlamafileEmbedding:
    """Parse a body with its texts under ``key``.

    Raises:
        RequestError: no usable texts, or a field whose value cannot be honoured.
    """
    texts, many = read_texts(body, key)
    request = EmbedRequest(
        texts,
        input_type=read_input_type(body, "input_type"),
        truncation=read_truncation(body, "truncate", default=Truncation.ERROR),
        dimensions=read_dimensions(body, "dimensions"),
        keep_going=read_flag(body, "keep_going"),
        use_cache=read_flag(body, "use_cache", default=True),
    )
    return LlamafileEmbedding(request, many)


def render_embedding(call: LlamafileEmbedding, result: EmbedResult, model: str) -> dict[str, Any]:
    """Return the old shape; a list of one carries both forms."""
    rows = [_render_row(result, index) for index in range(len(result.vectors))]
    if not call.many:
        return rows[0]
    answer: dict[str, Any] = {"results": rows}
    if len(rows) == 1:
        answer["embedding"] = rows[0]["embedding"]
    return answer


def render_list(call: LlamafileEmbedding, result: EmbedResult, model: str) -> list[dict[str, Any]]:
    """Return the shape of llama.cpp's present server: one nested row per text."""
    rows = (_render_row(result, index) for index in range(len(result.vectors)))
    return [{"index": index, **row, "embedding": [row["embedding"]]} for index, row in enumerate(rows)]


def _render_row(result: EmbedResult, index: int) -> dict[str, Any]:
    vector = None if failed(result, index) else result.vectors[index]
    return {"embedding": vector, **describe_outcome(result, index)}
