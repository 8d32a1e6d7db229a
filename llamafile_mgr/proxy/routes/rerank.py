"""Reranking with a reranker model: what a form parses is scored, and it renders the best."""

from __future__ import annotations

from functools import partial

from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.lengths import estimate_tokens
from llamafile_mgr.engines.replies import error_text, says_too_long
from llamafile_mgr.engines.reranking import read_scores, rerank_request
from llamafile_mgr.errors import InputTooLongError
from llamafile_mgr.proxy.dialects.dialect import Form, RerankCall, Route, find_form
from llamafile_mgr.proxy.dialects.rerank_forms import best_documents
from llamafile_mgr.proxy.engine_answers import check_reply
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.http import Padding, Reply, Request, json_reply
from llamafile_mgr.proxy.tracing import engine_headers
from llamafile_mgr.supervisor.calls import Weight


def rerank_route(path: str, form: Form[RerankCall]) -> Route:
    """Return a route that orders documents; other dialects' forms are read there too."""
    return Route("POST", path, partial(_rerank, form), form.schema, shared="rerank")


async def _rerank(own: Form[RerankCall], front: Front, request: Request) -> Reply:
    body = request.json_object()
    choice = front.choose(Role.RERANK, body.get("model"), request, Padding.JSON)
    call = find_form(own, "rerank", front.dialects, request, body).parse(request, body)
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
    answer = call.render(call, best_documents(call, scores), choice.pool.plan.name, request.request_id)
    return json_reply(answer, headers=choice.headers())
