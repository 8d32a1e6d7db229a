"""Generation calls: OpenAI's and llamafile's routes, and Ollama's translated to OpenAI's chat."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import partial
from typing import Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.messages import json_request
from llamafile_mgr.engines.replies import read_json
from llamafile_mgr.errors import EngineError
from llamafile_mgr.proxy.dialects import completions
from llamafile_mgr.proxy.dialects.errors import Dialect, render_error
from llamafile_mgr.proxy.dialects.ollama_chat import (
    OllamaCall,
    OllamaStream,
    parse_chat,
    parse_generate,
    render_loaded,
    render_whole,
)
from llamafile_mgr.proxy.events import EventReader, render_event
from llamafile_mgr.proxy.front import Front, Route
from llamafile_mgr.proxy.generation import (
    EngineAnswer,
    ask_engine,
    check_reply,
    pass_on,
    prepare_body,
    style_of,
)
from llamafile_mgr.proxy.http import Drip, Reply, Request, StreamCutError, StreamReply, json_reply
from llamafile_mgr.proxy.refusals import UnsupportedError
from llamafile_mgr.proxy.tracing import engine_headers
from llamafile_mgr.supervisor.calls import Weight
from llamafile_mgr.supervisor.pool import Pool

__all__ = ["generation_routes"]

#: Path of a call -> path at the engine.
_PATHS = {
    "/completion": "/completion",
    "/completions": "/v1/completions",
    "/v1/completions": "/v1/completions",
    "/chat/completions": "/v1/chat/completions",
    "/v1/chat/completions": "/v1/chat/completions",
    "/responses": "/v1/responses",
    "/v1/responses": "/v1/responses",
}
_NDJSON = "application/x-ndjson"
#: What a generation is taken to cost when it names no end.
_ASSUMED_TOKENS, _MOST_TOKENS = 256, 4096
#: Of English, rather too few.
_CHARACTERS_PER_TOKEN = 3


def generation_routes(front: Front) -> list[Route]:
    """Return the routes whose calls give text."""
    routes = [Route("POST", path, partial(_generate, front, target)) for path, target in _PATHS.items()]
    routes.append(Route("POST", "/api/chat", partial(_ollama, front), Dialect.OLLAMA))
    routes.append(Route("POST", "/api/generate", partial(_ollama, front), Dialect.OLLAMA))
    return routes


async def _generate(front: Front, path: str, request: Request) -> Reply | StreamReply:
    body = request.json_object()
    style = style_of(path, body)
    streamed = body.get("stream") is True
    drip = (Drip.EVENTS if style.takes_comments else Drip.NONE) if streamed else Drip.JSON
    choice = front.choose(Role.GENERATE, body.get("model"), request, drip)
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
    events = _events(answer, stream.feed, stream.finish)
    return StreamReply(200, "text/event-stream", events, headers, answer.close)


async def _complete_by_openai(
    front: Front, request: Request, pool: Pool, body: Mapping[str, Any], headers: dict[str, str]
) -> Reply | StreamReply:
    """Give llamafile's own completion from an engine that has only OpenAI's."""
    answer = await _ask(front, request, pool, "/v1/completions", body)
    if answer.whole is not None:
        reply = read_json(check_reply(answer.whole))
        return json_reply(completions.render_llamafile(reply, pool.plan.name), headers=headers)
    stream = completions.LlamafileStream(pool.plan.name)
    events = _events(answer, stream.feed, stream.finish)
    return StreamReply(200, "text/event-stream", events, headers, answer.close)


#: Path at the engine -> how it is answered by a family that lacks it.
_TRANSLATED = {"/v1/completions": _complete_by_own, "/completion": _complete_by_openai}


async def _ollama(front: Front, request: Request) -> Reply | StreamReply:
    began = time.monotonic()
    body = request.json_object()
    call = parse_chat(body) if request.path == "/api/chat" else parse_generate(body)
    drip = Drip.NONE if call.stream else Drip.JSON
    choice = front.choose(Role.GENERATE, body.get("model"), request, drip)
    name, headers = choice.pool.plan.name, choice.headers()
    if call.body is None:
        line = render_loaded(call, name)
        reply = json_reply(line, headers=headers)
        return Reply(200, reply.body + b"\n", _NDJSON, headers) if call.stream else reply
    path = "/v1/chat/completions"
    asked = prepare_body(path, {**call.body, "model": name}, style_of(path, {"model": name}))
    prepared = family_rules(choice.pool.plan.family).generation_body(asked)
    answer = await _ask(front, request, choice.pool, path, prepared)
    if answer.whole is not None:
        whole = read_json(check_reply(answer.whole))
        return json_reply(render_whole(call, name, whole, time.monotonic() - began), headers=headers)
    return StreamReply(200, _NDJSON, _ollama_lines(answer, call, name, began), headers, answer.close)


async def _events(answer: EngineAnswer, feed: Any, finish: Any) -> AsyncGenerator[bytes]:
    """Yield translated server-sent events; a death midway is one more of them before the stream is cut."""
    try:
        async for event in _translate(answer, feed, finish):
            yield event
    except StreamCutError as cut:
        if isinstance(cut.__cause__, EngineError):
            yield render_event(render_error(cut.__cause__))
        raise


async def _ollama_lines(
    answer: EngineAnswer, call: OllamaCall, name: str, began: float
) -> AsyncGenerator[bytes]:
    stream = OllamaStream(call, name)
    try:
        async for line in _translate(answer, stream.feed, lambda: stream.finish(time.monotonic() - began)):
            yield line
    except StreamCutError as cut:
        if isinstance(cut.__cause__, EngineError):
            yield stream.fail(cut.__cause__)
        raise


async def _translate(answer: EngineAnswer, feed: Any, finish: Any) -> AsyncIterator[bytes]:
    """Yield what ``feed`` makes of each event and ``finish`` at the end; a death midway cuts the stream."""
    reader = EventReader()
    try:
        async for piece in answer.chunks():
            for event in reader.feed(piece):
                if out := feed(event):
                    yield out
    except EngineError as error:
        raise StreamCutError from error
    for event in reader.finish():
        if out := feed(event):
            yield out
    yield finish()
