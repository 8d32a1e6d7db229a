"""Reranking at the engine: one score for each document. llamafile from 0.10 on and the embedded engine.

Shapes: recorded from the embedded engine; llama.cpp's ``tools/server/README.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llamafile_mgr.engines.messages import EngineReply, EngineRequest, json_request
from llamafile_mgr.engines.replies import read_json
from llamafile_mgr.errors import EngineError


def rerank_request(
    query: str, documents: Sequence[str], headers: tuple[tuple[str, str], ...] = ()
) -> EngineRequest:
    """Return the request for the scores of ``documents``."""
    return json_request("/v1/rerank", {"query": query, "documents": list(documents)}, headers)


def read_scores(reply: EngineReply, count: int) -> list[float]:
    """Return the score of each document, in their order; the higher, the more it has to do with the query.

    Raises:
        EngineError: not one finite score per document.
    """
    body = read_json(reply)
    scores: dict[int, float] = {}
    results = body.get("results") if isinstance(body, dict) else None
    for each in results if isinstance(results, list) else ():
        if isinstance(each, dict) and isinstance(each.get("relevance_score"), (int, float)):
            scores[each.get("index", -1)] = float(each["relevance_score"])
    if sorted(scores) != list(range(count)) or not all(map(math.isfinite, scores.values())):
        raise EngineError(f"the engine gave no score for each of {count} documents")
    return [scores[index] for index in range(count)]
