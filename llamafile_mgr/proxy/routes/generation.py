"""Generation calls: passed to the engine's route, or translated to its chat and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.replies import read_json
from llamafile_mgr.errors import EngineError, Error
from llamafile_mgr.llamafile.family import Family
from llamafile_mgr.proxy.admission import CHARACTERS_PER_TOKEN, Cost
from llamafile_mgr.proxy.dialects import completions
from llamafile_mgr.proxy.dialects.dialect import Route
from llamafile_mgr.proxy.dialects.errors import render_error
from llamafile_mgr.proxy.dialects.llamafiler import to_llamafiler
from llamafile_mgr.proxy.dialects.schemas import OBJECT, Schema
from llamafile_mgr.proxy.events import EventReader, render_event
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.generation import (
    SILENCE_SECONDS,
    EngineAnswer,
    StreamCutError,
    ask_engine,
    check_reply,
    pass_on,
    prepare_body,
    style_of,
)
from llamafile_mgr.proxy.http import Drip, Reply, Request, StreamReply, json_reply
from llamafile_mgr.proxy.refusals import UnsupportedError
from llamafile_mgr.proxy.routing import Choice
from llamafile_mgr.proxy.tracing import engine_headers
from llamafile_mgr.supervisor.pool import Pool

__all__ = ["ask_chat", "generation_route", "translate"]

_CHAT = "/v1/chat/completions"
#: What a generation is taken to cost when it names no end.
_ASSUMED_TOKENS, _MOST_TOKENS = 256, 4096


def generation_route(path: str, target: str, schema: Schema = OBJECT) -> Route:
    """Return a route whose calls are passed to the engine's path ``target``."""
    return Route("POST", path, partial(_generate, target), schema)


async def _generate(path: str, front: Front, request: Request) -> Reply | StreamReply:
    body = request.json_object()
    style = style_of(path, body)
    streamed = body.get("stream") is True
    drip = (Drip.EVENTS if style.takes_comments else Drip.NONE) if streamed else Drip.JSON
    choice = front.choose(Role.GENERATE, body.get("model"), request, drip)
    pool = choice.pool
    _check_offered(pool, path)
    prepared = prepare_body(path, body, style)
    if pool.plan.family is Family.V2:
        prepared = to_llamafiler(prepared)
        if path == "/completion":
            return await _complete_on_v2(front, request, pool, prepared, choice.headers())
    if path == "/v1/completions" and pool.plan.family is Family.V1:
        return await _complete_on_v1(front, request, pool, prepared, choice.headers())
    return pass_on(await _ask(front, request, pool, path, prepared), style, choice.headers())


def _check_offered(pool: Pool, path: str) -> None:
    """Refuse routes that this generation of engines does not have. Raises UnsupportedError."""
    old = pool.plan.family in (Family.V1, Family.V2)
    if path == "/v1/responses" and old:
        raise UnsupportedError(f"the engine of {pool.plan.name} is too old for {path}", hint="use chat")


async def _ask(front: Front, request: Request, pool: Pool, path: str, body: dict[str, Any]) -> EngineAnswer:
    """Ask an engine within this request's turn, which ends with the answer."""
    limit = body.get("max_tokens", body.get("n_predict", _ASSUMED_TOKENS))
    limit = limit if isinstance(limit, int) and 0 <= limit <= _MOST_TOKENS else _ASSUMED_TOKENS
    cost = Cost(1, len(request.body) // CHARACTERS_PER_TOKEN + limit)
    turn = front.turn(request, pool, cost)
    await turn.__aenter__()
    try:
        answer = await ask_engine(
            pool,
            path,
            body,
            wait_seconds=front.hold_seconds(request),
            deadline_seconds=front.settings.request_seconds,
            streamed=body.get("stream") is True,
            headers=engine_headers(request.headers, request.request_id),
        )
    except BaseException:
        turn.end(done=False)
        raise
    if answer.stack is None:
        turn.end(done=True)
    else:
        answer.stack.callback(turn.end, done=True)
    return answer


async def _complete_on_v1(
    front: Front, request: Request, pool: Pool, body: dict[str, Any], headers: dict[str, str]
) -> Reply | StreamReply:
    """Give OpenAI's text completion from an engine that has only its own."""
    answer = await _ask(front, request, pool, "/completion", completions.to_llamafile(body))
    if answer.whole is not None:
        reply = read_json(check_reply(answer.whole))
        return json_reply(
            completions.render_whole(reply, pool.plan.name, request.request_id), headers=headers
        )
    stream = completions.CompletionStream(pool.plan.name, request.request_id)
    return StreamReply(200, "text/event-stream", translate(answer, stream.feed, stream.finish), headers)


async def _complete_on_v2(
    front: Front, request: Request, pool: Pool, body: dict[str, Any], headers: dict[str, str]
) -> Reply | StreamReply:
    """Give llamafile's own completion from an engine that has only OpenAI's."""
    answer = await _ask(front, request, pool, "/v1/completions", body)
    if answer.whole is not None:
        reply = read_json(check_reply(answer.whole))
        return json_reply(completions.render_llamafile(reply, pool.plan.name), headers=headers)
    stream = completions.LlamafileStream(pool.plan.name)
    return StreamReply(200, "text/event-stream", translate(answer, stream.feed, stream.finish), headers)


async def ask_chat(front: Front, request: Request, choice: Choice, body: dict[str, Any]) -> EngineAnswer:
    """Ask the engine's chat route on behalf of a dialect of another form."""
    name = choice.pool.plan.name
    prepared = prepare_body(_CHAT, {**body, "model": name}, style_of(_CHAT, {"model": name}))
    if choice.pool.plan.family is Family.V2:
        prepared = to_llamafiler(prepared)
    return await _ask(front, request, choice.pool, _CHAT, prepared)


def _fail(error: Error) -> bytes:
    return render_event(render_error(error))


async def translate(
    answer: EngineAnswer,
    feed: Callable[[Any], bytes],
    finish: Callable[[], bytes],
    fail: Callable[[Error], bytes] = _fail,
) -> AsyncIterator[bytes]:
    """Yield what ``feed`` makes of each event and ``finish`` at the end.

    A death midway is told as ``fail`` says it, and cuts the stream.
    """
    reader = EventReader()
    assert answer.stream is not None  # noqa: S101
    assert answer.stack is not None  # noqa: S101
    with answer.stack:
        try:
            async for piece in answer.stream.chunks(SILENCE_SECONDS):
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
