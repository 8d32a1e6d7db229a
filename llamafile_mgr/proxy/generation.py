"""Generation calls: passed to the engine, and its answer passed on byte by byte as it comes.

What has gone out cannot be taken back, so a call is sent again only while nothing has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from llamafile_mgr.engines.messages import EngineReply, EngineRequest, json_request
from llamafile_mgr.engines.replies import error_text
from llamafile_mgr.engines.transport import EngineClient, EngineStream
from llamafile_mgr.errors import EngineError, EngineLostError, RequestError
from llamafile_mgr.proxy.allowed import allowed_body
from llamafile_mgr.proxy.dialects.errors import render_error
from llamafile_mgr.proxy.events import EventFilter, EventStyle, render_event
from llamafile_mgr.proxy.http import Reply, StreamReply
from llamafile_mgr.proxy.refusals import EngineRefusedError
from llamafile_mgr.supervisor.members import Member
from llamafile_mgr.supervisor.pool import Pool

__all__ = [
    "SILENCE_SECONDS",
    "EngineAnswer",
    "StreamCutError",
    "ask_engine",
    "check_reply",
    "pass_on",
    "prepare_body",
    "style_of",
]

#: Between two bytes of a stream that has begun.
SILENCE_SECONDS = 600.0
#: A comment after this much silence keeps routers and clients from closing the connection.
_KEEP_ALIVE_SECONDS = 15.0
_KEEP_ALIVE = b": keep-alive\n\n"
_TRIES = 3


class StreamCutError(Exception):
    """Ends a stream without its proper end, so that the client knows it was cut."""


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """An engine's answer: ``whole``, or the head of a ``stream`` with what must be closed with it."""

    whole: EngineReply | None
    stream: EngineStream | None = None
    stack: contextlib.ExitStack | None = None


def style_of(path: str, body: Mapping[str, Any]) -> EventStyle:
    """Return what the client's stream parser can take.

    LlamaIndex' chat is known by its nested ``options`` and by naming no model.
    """
    if path == "/completion":
        return EventStyle.COMPLETION
    if path == "/v1/responses":
        return EventStyle.TYPED
    if isinstance(body.get("options"), dict) and "model" not in body:
        return EventStyle.STRICT_CHAT
    return EventStyle.STANDARD


def prepare_body(path: str, body: dict[str, Any], style: EventStyle) -> dict[str, Any]:
    """Return the body as the engine reads it.

    ``options`` are flattened for LlamaIndex (engines ignore them, so its temperature and seed did nothing),
    ``max_completion_tokens`` is repeated under the old name, pings are off for hand-written parsers.

    Raises:
        RequestError: a value that must not reach an engine.
    """
    prepared = dict(body)
    if style is EventStyle.STRICT_CHAT:
        prepared = {**body["options"], **prepared}
    if "max_completion_tokens" in prepared:
        prepared.setdefault("max_tokens", prepared["max_completion_tokens"])
    if style in (EventStyle.COMPLETION, EventStyle.STRICT_CHAT):
        prepared["sse_ping_interval"] = -1
    return allowed_body(path, prepared)


async def ask_engine(
    pool: Pool,
    path: str,
    body: Mapping[str, Any],
    *,
    wait_seconds: float,
    deadline_seconds: float,
    streamed: bool,
    headers: tuple[tuple[str, str], ...] = (),
) -> EngineAnswer:
    """Send a call to the least busy engine; when it dies before it answers, to the next one.

    Raises:
        NotReadyError: no engine became ready in time.
        EngineError: the engine broke off, or was silent for too long, before it had answered.
    """
    request = json_request(path, {"model": pool.plan.name, **body}, headers)
    for attempt in range(1, _TRIES + 1):
        try:
            return await _ask_once(pool, request, wait_seconds, deadline_seconds, streamed=streamed)
        except EngineLostError:
            if attempt == _TRIES:
                raise
        # The engine's own task has yet to see the death: let it, instead of asking again at once.
        await asyncio.sleep(0.05)
    raise AssertionError("unreachable")


async def _ask_once(
    pool: Pool, request: EngineRequest, wait_seconds: float, deadline_seconds: float, *, streamed: bool
) -> EngineAnswer:
    if not streamed:
        async with pool.lease(wait_seconds) as engine:
            return EngineAnswer(await _client_of(engine).request(request, deadline_seconds=deadline_seconds))
    lease = pool.lease(wait_seconds)
    engine = await lease.__aenter__()
    with contextlib.ExitStack() as stack:
        stack.callback(lease.end)
        stream = await _client_of(engine).open_stream(request, deadline_seconds=deadline_seconds)
        stack.callback(stream.close)
        if not stream.content_type.startswith("text/event-stream"):
            return EngineAnswer(await stream.read(deadline_seconds))
        # The lease and the connection now belong to the stream, which gives them back at its end.
        return EngineAnswer(None, stream, stack.pop_all())
    raise AssertionError("unreachable")


def _client_of(engine: Member) -> EngineClient:
    if engine.client is None:
        raise EngineLostError(f"{engine.name} was stopped")
    return engine.client


def check_reply(reply: EngineReply) -> EngineReply:
    """Return a good reply; what an engine calls 500 for a bad request is the caller's fault.

    Raises:
        EngineRefusedError: the request is at fault.
        EngineError: the engine is.
    """
    if reply.status == 200:
        return reply
    text = error_text(reply)
    if reply.status < 500 or "json.exception" in text or "parse error" in text:
        raise EngineRefusedError(f"the engine refused the request: {text}")
    if reply.status == 501:
        raise RequestError(f"the engine cannot do this: {text}")
    raise EngineError(f"the engine answered {reply.status}: {text}")


def pass_on(answer: EngineAnswer, style: EventStyle, headers: Mapping[str, str]) -> Reply | StreamReply:
    """Return an engine's answer as ours.

    Raises:
        EngineRefusedError, EngineError: as ``check_reply`` does.
    """
    if answer.whole is not None:
        reply = check_reply(answer.whole)
        return Reply(200, reply.body, reply.content_type or "application/json", headers)
    assert answer.stream is not None  # noqa: S101
    assert answer.stack is not None  # noqa: S101
    return StreamReply(200, "text/event-stream", _relay(answer.stream, style, answer.stack), headers)


async def _relay(
    stream: EngineStream, style: EventStyle, stack: contextlib.ExitStack
) -> AsyncIterator[bytes]:
    """Yield the engine's events; a death midway becomes an error event and a cut connection."""
    events = EventFilter(style)
    with stack:
        try:
            async for piece in _with_keep_alive(stream.chunks(SILENCE_SECONDS), style.takes_comments):
                if out := (piece if piece is _KEEP_ALIVE else events.feed(piece)):
                    yield out
        except EngineError as error:
            yield render_event(render_error(error))
            raise StreamCutError from error
        if out := events.finish():
            yield out


async def _with_keep_alive(chunks: AsyncIterator[bytes], comments: bool) -> AsyncIterator[bytes]:
    """Yield the chunks, and a comment whenever there was none for a while."""
    while True:
        coming = asyncio.ensure_future(anext(chunks))
        try:
            while not (await asyncio.wait({coming}, timeout=_KEEP_ALIVE_SECONDS))[0]:
                if comments:
                    yield _KEEP_ALIVE
            try:
                piece = coming.result()
            except StopAsyncIteration:
                return
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        yield piece
