"""Embedding calls of every dialect: what a form parses is embedded, and it renders the result."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult
from llamafile_mgr.errors import RequestError, VectorSpaceError
from llamafile_mgr.proxy.dialects.dialect import Dialect, EmbedCall, Form, Route, find_form
from llamafile_mgr.proxy.dialects.fields import refuse_chunks
from llamafile_mgr.proxy.dialects.outcomes import outcome_headers
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.http import Padding, Reply, Request, json_reply

#: Carries the fingerprint of the vectors in an answer; names those that a request takes.
SPACE_HEADER, CONDITION_HEADER = "x-vector-space", "if-vector-space"
_SHOWN = 100


def embedding_route(
    path: str, form: Form[EmbedCall], *, shared: bool = False, hold_seconds: float = 10.0
) -> Route:
    """Return a route whose calls give vectors. ``shared``: other dialects' forms are read there too."""
    return Route(
        "POST",
        path,
        partial(_embed, form, shared),
        form.schema,
        hold_seconds=hold_seconds,
        shared="embed" if shared else None,
        conditional=True,
    )


def parse_embedding(
    own: Form[EmbedCall], others: Iterable[Dialect], request: Request, body: dict[str, Any]
) -> EmbedCall:
    """Parse a body in the route's own form, or in that of the other dialect that claims it.

    Raises:
        RequestError: no usable texts, a field whose value cannot be honoured, or chunks of a form without.
    """
    call = find_form(own, "embed", others, request, body).parse(request, body)
    if not call.request.return_chunks:
        refuse_chunks(body)
    return call


async def _embed(own: Form[EmbedCall], shared: bool, front: Front, request: Request) -> Reply:
    began = time.monotonic()
    body = request.json_object()
    choice = front.choose(Role.EMBED, body.get("model"), request, Padding.JSON)
    name = choice.pool.plan.name
    call = parse_embedding(own, front.dialects if shared else (), request, body)
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


def check_space(headers: Mapping[str, str], space: str, model: str) -> None:
    """Check that a caller who names vector spaces in ``If-Vector-Space`` names that of ``model``.

    The syntax is that of HTTP's If-Match (RFC 9110, 13.1.1): fingerprints, in quotes or bare, or ``*``.

    Raises:
        VectorSpaceError: none of them is ``space``.
    """
    condition = headers.get(CONDITION_HEADER)
    if condition is None:
        return
    wanted = {part.strip().removeprefix("W/").strip('"') for part in condition.split(",")}
    if space in wanted or "*" in wanted:
        return
    shown = "".join(c if c.isprintable() and c.isascii() else "?" for c in condition[:_SHOWN])
    raise VectorSpaceError(
        f"vectors of {model} are of the space {space}, not {shown.strip() or 'an empty one'}",
        space=space,
        hint="ask for the model that the index was made with, or make the index again",
    )
