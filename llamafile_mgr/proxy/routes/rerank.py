"""Reranking with a reranker model, in Jina's, Cohere's and TEI's forms."""

from __future__ import annotations

from functools import partial

from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.lengths import estimate_tokens
from llamafile_mgr.engines.replies import error_text, says_too_long
from llamafile_mgr.engines.reranking import read_scores, rerank_request
from llamafile_mgr.errors import InputTooLongError
from llamafile_mgr.proxy.dialects.errors import Dialect
from llamafile_mgr.proxy.dialects.rerank import parse_rerank, render_rerank
from llamafile_mgr.proxy.front import Front, Route
from llamafile_mgr.proxy.generation import check_reply
from llamafile_mgr.proxy.http import Drip, Reply, Request, json_reply
from llamafile_mgr.proxy.tracing import engine_headers
from llamafile_mgr.supervisor.calls import Weight

__all__ = ["rerank_routes"]

_PATHS = {
    "/rerank": Dialect.OPENAI,
    "/reranking": Dialect.OPENAI,
    "/v1/rerank": Dialect.COHERE,
    "/v1/reranking": Dialect.OPENAI,
    "/v2/rerank": Dialect.COHERE,
}


def rerank_routes(front: Front) -> list[Route]:
    """Return the routes that order documents."""
    return [Route("POST", path, partial(_rerank, front), dialect) for path, dialect in _PATHS.items()]


async def _rerank(front: Front, request: Request) -> Reply:
    body = request.json_object()
    choice = front.choose(Role.RERANK, body.get("model"), request, Drip.JSON)
    call = parse_rerank(body)
    count = len(call.documents)
    tokens = sum(map(estimate_tokens, call.documents)) + count * estimate_tokens(call.query)
    asked = rerank_request(call.query, call.documents, engine_headers(request.headers, request.request_id))
    reply = await front.ask(request, choice.pool, asked, Weight(count, tokens))
    if says_too_long(reply):
        raise InputTooLongError(
            f"the query and one of the documents are longer than the model takes: {error_text(reply)}",
            hint="send shorter documents",
        )
    scores = read_scores(check_reply(reply), count)
    answer = render_rerank(call, scores, choice.pool.plan.name, request.request_id)
    return json_reply(answer, headers=choice.headers())
