"""Generation calls: passed to the engine, and its answer passed on byte by byte as it comes.

Nothing is replayed: what has gone out cannot be taken back.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from llamafile_mgr.engines.messages import EngineReply, json_request
from llamafile_mgr.engines.replies import error_text
from llamafile_mgr.engines.transport import EngineStream
from llamafile_mgr.errors import EngineError, EngineLostError, RequestError
from llamafile_mgr.proxy.dialects.openai import render_error
from llamafile_mgr.proxy.events import EventFilter, EventStyle, render_event
from llamafile_mgr.proxy.http import Reply, StreamReply
from llamafile_mgr.proxy.routing import model_headers
from llamafile_mgr.supervisor.pool import Pool

__all__ = ["StreamCutError", "generate", "prepare_body", "style_of"]

#: Until the first byte: a long prompt on a slow processor takes minutes.
_FIRST_BYTE_SECONDS = 1800.0
#: Between two bytes of a stream that has begun.
_SILENCE_SECONDS = 600.0


class StreamCutError(Exception):
    """Ends a stream without its proper end, so that the client knows it was cut."""


def style_of(path: str, body: dict[str, Any]) -> EventStyle:
    """Return what the client's stream parser can take.

    LlamaIndex' chat is known by its nested ``options`` and by naming no model.
    """
    if path == "/completion":
        return EventStyle.COMPLETION
    if isinstance(body.get("options"), dict) and "model" not in body:
        return EventStyle.STRICT_CHAT
    return EventStyle.STANDARD


def prepare_body(body: dict[str, Any], style: EventStyle) -> dict[str, Any]:
    """Return the body as the engine reads it.

    ``options`` are flattened for LlamaIndex (engines ignore them, so its temperature and seed did nothing),
    ``max_completion_tokens`` is repeated under the old name, pings are off for hand-written parsers.
    """
    prepared = {key: value for key, value in body.items() if key != "options" or style is EventStyle.STANDARD}
    if style is EventStyle.STRICT_CHAT:
        prepared = {**body["options"], **prepared}
    if "max_completion_tokens" in prepared:
        prepared.setdefault("max_tokens", prepared["max_completion_tokens"])
    if style is not EventStyle.STANDARD:
        prepared["sse_ping_interval"] = -1
    return prepared


async def generate(pool: Pool, path: str, body: dict[str, Any], wait_seconds: float) -> Reply | StreamReply:
    """Ask the pool's engine and return its reply, whole or as a stream.

    Raises:
        NotReadyError: no engine became ready in time.
        EngineError: the engine broke off, or was silent for too long, before it had answered.
        RequestError: the engine refused the request as it was sent.
    """
    style = style_of(path, body)
    request = json_request(path, prepare_body(body, style))
    headers = model_headers(pool, body)
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(pool.lease(wait_seconds))
        if engine.client is None:
            raise EngineLostError(f"{engine.name} was stopped")
        stream = await engine.client.open_stream(request, deadline_seconds=_FIRST_BYTE_SECONDS)
        stack.callback(stream.close)
        if not stream.content_type.startswith("text/event-stream"):
            return _pass_whole(await stream.read(_FIRST_BYTE_SECONDS), headers)
        # The lease and the connection now belong to the stream, which gives them back at its end.
        kept = stack.pop_all()
        return StreamReply(200, "text/event-stream", _relay(stream, style, kept), headers)
    raise AssertionError("unreachable")


def _pass_whole(reply: EngineReply, headers: dict[str, str]) -> Reply:
    """Return an engine's whole reply as ours; what it calls 500 for a bad request is the caller's fault."""
    if reply.status == 200:
        return Reply(200, reply.body, reply.content_type or "application/json", headers)
    text = error_text(reply)
    if reply.status < 500 or "json.exception" in text or "parse error" in text:
        raise RequestError(f"the engine refused the request: {text}")
    raise EngineError(f"the engine answered {reply.status}: {text}")


async def _relay(
    stream: EngineStream, style: EventStyle, kept: contextlib.AsyncExitStack
) -> AsyncIterator[bytes]:
    """Yield the engine's events; a death midway becomes an error event and a cut connection."""
    events = EventFilter(style)
    async with kept:
        try:
            async for piece in stream.chunks(_SILENCE_SECONDS):
                if out := events.feed(piece):
                    yield out
        except EngineError as error:
            yield render_event(render_error(error))
            raise StreamCutError from error
        if out := events.finish():
            yield out
