"""Embedding calls of every dialect."""

from __future__ import annotations

import time
from dataclasses import replace

from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult
from llamafile_mgr.errors import RequestError
from llamafile_mgr.proxy.dialects.choice import parse_call
from llamafile_mgr.proxy.dialects.errors import Dialect
from llamafile_mgr.proxy.dialects.outcomes import outcome_headers
from llamafile_mgr.proxy.front import Front, Handler, Route
from llamafile_mgr.proxy.http import Drip, Reply, Request, json_reply
from llamafile_mgr.proxy.refusals import UnsupportedError
from llamafile_mgr.proxy.spaces import SPACE_HEADER, check_space

__all__ = ["EMBEDDING_PATHS", "embedding_routes"]

#: ``/embedding?shape=list`` gives the list of llama.cpp's present server.
_SHAPE_PARAMETER, _NEW_SHAPE = "shape", "list"
#: TEI's clients wait 5 seconds for the next byte when chroma makes them.
_TEI_HOLD_SECONDS = 3.0

_PATHS = {
    "/v1/embeddings": Dialect.OPENAI,
    "/embeddings": Dialect.OPENAI,
    "/embedding": Dialect.OPENAI,
    "/api/embed": Dialect.OLLAMA,
    "/api/embeddings": Dialect.OLLAMA,
    "/embed": Dialect.TEI,
    "/v1/embed": Dialect.COHERE,
    "/v2/embed": Dialect.COHERE,
}
#: Routes whose answers hold vectors.
EMBEDDING_PATHS = frozenset(_PATHS)
_REFUSED = {
    "/embed_all": "vectors of single tokens are not offered",
    "/embed_sparse": "sparse vectors are not offered",
}


def embedding_routes(front: Front) -> list[Route]:
    """Return the routes whose calls give vectors."""

    async def embed(request: Request) -> Reply:
        return await _embed(front, request)

    routes = [
        Route("POST", path, embed, dialect, hold_seconds=_TEI_HOLD_SECONDS if path == "/embed" else 10.0)
        for path, dialect in _PATHS.items()
    ]
    for path, why in _REFUSED.items():
        routes.append(Route("POST", path, _refuser(why), Dialect.TEI))
    return routes


def _refuser(why: str) -> Handler:
    async def refuse(request: Request) -> Reply:
        raise UnsupportedError(why, hint="POST /embed gives one vector a text")

    return refuse


async def _embed(front: Front, request: Request) -> Reply:
    began = time.monotonic()
    body = request.json_object()
    choice = front.choose(Role.EMBED, body.get("model"), request, Drip.JSON)
    name = choice.pool.plan.name
    new_list = request.query.get(_SHAPE_PARAMETER) == _NEW_SHAPE
    call = parse_call(request.path, body, request_id=request.request_id, new_list=new_list)
    embedder, wanted = front.embedders[name], call.request
    check_space(request.headers, embedder.vector_space, name)
    if wanted.input_type is None and choice.input_type is not None:
        wanted = replace(wanted, input_type=choice.input_type)
    if wanted.texts:
        request.progress.items = len(wanted.texts)
        result = await embedder.embed(wanted, front.caller(request))
        _check_width(wanted, result)
        # The call may have waited while other engines took over.
        check_space(request.headers, result.vector_space, name)
    else:
        result = _empty_result(embedder.vector_space)
    request.progress.prompt_tokens = result.prompt_tokens
    headers = {SPACE_HEADER: result.vector_space, **choice.headers(), **outcome_headers(result)}
    return json_reply(call.render(result, name, time.monotonic() - began), headers=headers)


def _empty_result(space: str) -> EmbedResult:
    import numpy as np

    return EmbedResult(np.zeros((0, 0), np.float32), 0, space)


def _check_width(wanted: EmbedRequest, result: EmbedResult) -> None:
    """A width that is not what was asked for must never be passed on: indexes are made for it.

    Raises:
        RequestError: this model's vectors cannot be cut to the wanted width.
    """
    width = result.vectors.shape[1]
    if wanted.dimensions is not None and width != wanted.dimensions:
        raise RequestError(
            f"'dimensions' cannot be {wanted.dimensions}: this model's vectors have {width}",
            hint="leave 'dimensions' out to get the model's own",
        )
