"""Generation calls: passed to the engine's route, or translated to its chat and back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.messages import json_request
from llamafile_mgr.engines.replies import read_json
from llamafile_mgr.errors import EngineError, Error
from llamafile_mgr.proxy.api_errors import UnsupportedError
from llamafile_mgr.proxy.dialects import completions
from llamafile_mgr.proxy.dialects.dialect import Route
from llamafile_mgr.proxy.dialects.error_forms import render_error
from llamafile_mgr.proxy.dialects.schemas import OBJECT, Schema
from llamafile_mgr.proxy.engine_answers import (
    EngineAnswer,
    ask_engine,
    check_reply,
    pass_on,
    prepare_body,
    style_of,
)
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.http import Padding, Reply, Request, StreamCutError, StreamReply, json_reply
from llamafile_mgr.proxy.routing import RoutedCall
from llamafile_mgr.proxy.server_sent_events import EventReader, render_event
from llamafile_mgr.proxy.tracing import engine_headers
from llamafile_mgr.supervisor.calls import Weight
from llamafile_mgr.supervisor.pool import Pool

__all__ = ["ask_chat", "generation_route", "translate"]

_CHAT = "/v1/chat/completions"
#: What a generation is taken to cost when it names no end.
_ASSUMED_TOKENS, _MOST_TOKENS = 256, 4096
#: Of English, rather too few.
_CHARACTERS_PER_TOKEN = 3


def generation_route(path: str, target: str, schema: Schema = OBJECT) -> Route:
    """Return a route whose calls are passed to the engine's path ``target``."""
    return Route("POST", path, partial(_generate, target), schema)


async def _generate(path: str, front: Front, request: Request) -> Reply | StreamReply:
    body = request.json_object()
    style = style_of(path, body)
    streamed = body.get("stream") is True
    padding = (Padding.EVENTS if style.takes_comments else Padding.NONE) if streamed else Padding.JSON
    choice = front.choose(Role.GENERATE, body.get("model"), request, padding)
    pool = choice.pool
    rules = family_rules(pool.plan.family)
    missing = path in rules.missing_routes
    if missing and path not in _TRANSLATED:
        raise UnsupportedError(f"the engine of {pool.plan.name} is too old for {path}", hint="use chat")
    prepared = rules.generation_body(prepare_body(path, body, style))
    if missing:
        return await _TRANSLATED[path](front, request, pool, prepared, choice.headers())
    return pass_on(await _ask(front, request, pool, path, prepared), style, choice.headers())


async def _ask(
    front: Front, request: Request, pool: Pool, path: str, body: Mapping[str, Any]
) -> EngineAnswer:
    """Ask an engine."""
    limit = body.get("max_tokens", body.get("n_predict", _ASSUMED_TOKENS))
    limit = limit if isinstance(limit, int) and 0 <= limit <= _MOST_TOKENS else _ASSUMED_TOKENS
    request.progress.items = 1
    return await ask_engine(
        pool,
        json_request(
            path, {"model": pool.plan.name, **body}, engine_headers(request.headers, request.request_id)
        ),
        front.caller(request),
        Weight(1, len(request.body) // _CHARACTERS_PER_TOKEN + limit),
        streamed=body.get("stream") is True,
    )


async def _complete_by_own(
    front: Front, request: Request, pool: Pool, body: Mapping[str, Any], headers: dict[str, str]
) -> Reply | StreamReply:
    """Give OpenAI's text completion from an engine that has only its own."""
    answer = await _ask(front, request, pool, "/completion", completions.to_llamafile(body))
    if answer.whole is not None:
        reply = read_json(check_reply(answer.whole))
        return json_reply(
            completions.render_whole(reply, pool.plan.name, request.request_id), headers=headers
        )
    stream = completions.CompletionStream(pool.plan.name, request.request_id)
    events = translate(answer, stream.feed, stream.finish)
    return StreamReply(200, "text/event-stream", events, headers, answer.close)


async def _complete_by_standard(
    front: Front, request: Request, pool: Pool, body: Mapping[str, Any], headers: dict[str, str]
) -> Reply | StreamReply:
    """Give llamafile's own completion from an engine that has only OpenAI's."""
    answer = await _ask(front, request, pool, "/v1/completions", body)
    if answer.whole is not None:
        reply = read_json(check_reply(answer.whole))
        return json_reply(completions.render_llamafile(reply, pool.plan.name), headers=headers)
    stream = completions.LlamafileStream(pool.plan.name)
    events = translate(answer, stream.feed, stream.finish)
    return StreamReply(200, "text/event-stream", events, headers, answer.close)


#: Path at the engine -> how it is answered by a family that lacks it.
_TRANSLATED = {"/v1/completions": _complete_by_own, "/completion": _complete_by_standard}


async def ask_chat(front: Front, request: Request, choice: RoutedCall, body: dict[str, Any]) -> EngineAnswer:
    """Ask the engine's chat route on behalf of a dialect of another form."""
    name = choice.pool.plan.name
    prepared = prepare_body(_CHAT, {**body, "model": name}, style_of(_CHAT, {"model": name}))
    asked = family_rules(choice.pool.plan.family).generation_body(prepared)
    return await _ask(front, request, choice.pool, _CHAT, asked)


def _fail(error: Error) -> bytes:
    return render_event(render_error(error))


async def translate(
    answer: EngineAnswer,
    feed: Callable[[Any], bytes],
    finish: Callable[[], bytes],
    fail: Callable[[Error], bytes] = _fail,
) -> AsyncGenerator[bytes]:
    """Yield what ``feed`` makes of each event and ``finish`` at the end.

    A death midway is told as ``fail`` says it, and cuts the stream.
    """
    reader = EventReader()
    try:
        async for piece in answer.chunks():
            for event in reader.feed(piece):
                if out := feed(event):
                    yield out
    except EngineError as error:
        yield fail(error)
        raise StreamCutError from error
    for event in reader.finish():
        if out := feed(event):
            yield out
    yield finish()
