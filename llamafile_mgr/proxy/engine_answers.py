"""Generation calls: passed to the engine, and its answer passed on byte by byte as it comes.

What has gone out cannot be taken back, so an engine's death under a stream that has begun ends the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.engines.replies import error_text
from llamafile_mgr.engines.transport import EngineStream
from llamafile_mgr.errors import EngineError, Error, RequestError
from llamafile_mgr.proxy.allowed import allowed_body
from llamafile_mgr.proxy.api_errors import EngineRefusedError
from llamafile_mgr.proxy.http import Reply, StreamCutError, StreamReply
from llamafile_mgr.proxy.server_sent_events import EventStyle, Translation
from llamafile_mgr.supervisor.calls import Caller, Priority, Weight
from llamafile_mgr.supervisor.permits import Permit, WorkerSlot
from llamafile_mgr.supervisor.pool import Pool
from llamafile_mgr.supervisor.request_work import RequestWork

#: Between two bytes of a stream that has begun.
_SILENCE_SECONDS = 600.0
#: A comment after this much silence keeps routers and clients from closing the connection.
_KEEP_ALIVE_SECONDS = 15.0
_KEEP_ALIVE = b": keep-alive\n\n"
#: What engines say under a 500 of a request that is at fault, such as one with an image for a model that sees
#: none (``image input is not supported``).
_REQUEST_AT_FAULT = ("json.exception", "parse error", "input is not supported")


@dataclass(slots=True)
class OpenAnswer:
    """An answer that still comes, with the worker slot and the permit that it keeps until closed."""

    stream: EngineStream
    slot: WorkerSlot
    permit: Permit | None = None

    def close(self) -> None:
        """Break off what has not come, and give slot and permit back."""
        self.stream.close()
        self.slot.end()
        if self.permit is not None:
            self.permit.release()


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
    pool: Pool, request: EngineRequest, caller: Caller, weight: Weight, *, streamed: bool
) -> EngineReply | OpenAnswer:
    """Return an engine's answer, whole or one that still comes and must be closed.

    Raises:
        BusyError: the queue is full.
        NotReadyError: no engine became ready in time, or the call's time is over.
        EngineError: the engine failed on it.
        DeadlyRequestError: engines died of it.
    """
    permit = pool.calls.admit(caller, weight)
    try:
        work = _STREAMS if streamed else _WHOLES
        [answer] = await pool.calls.compute(work, [request], [weight.tokens], Priority.BULK, caller)
    except BaseException:
        permit.release()
        raise
    if isinstance(answer, OpenAnswer):
        answer.permit = permit
        return answer
    permit.release()
    if isinstance(answer, Error):
        raise answer
    reply: EngineReply = answer
    return reply


class _StreamWork(RequestWork):
    """A request whose answer is passed on as it comes."""

    async def compute(
        self, slot: WorkerSlot, payloads: Sequence[EngineRequest], tokens: Sequence[int]
    ) -> Sequence[Any]:
        stream = await slot.connection().open_stream(payloads[0])
        if stream.content_type.startswith("text/event-stream"):
            slot.keep()
            return [OpenAnswer(stream, slot)]
        try:
            return [await stream.read(_SILENCE_SECONDS)]
        finally:
            stream.close()

    def discard(self, result: Any) -> None:
        if isinstance(result, OpenAnswer):
            result.close()


_WHOLES, _STREAMS = RequestWork(), _StreamWork()


def check_reply(reply: EngineReply) -> EngineReply:
    """Return a good reply; what an engine calls 500 for a bad request is the caller's fault.

    Raises:
        EngineRefusedError: the request is at fault.
        EngineError: the engine is.
    """
    if reply.status == 200:
        return reply
    text = error_text(reply)
    if reply.status < 500 or any(words in text for words in _REQUEST_AT_FAULT):
        raise EngineRefusedError(f"the engine refused the request: {text}")
    if reply.status == 501:
        raise RequestError(f"the engine cannot do this: {text}")
    raise EngineError(f"the engine answered {reply.status}: {text}")


def pass_on(
    answer: EngineReply | OpenAnswer, form: Translation, headers: Mapping[str, str]
) -> Reply | StreamReply:
    """Return an engine's answer as ours, in the client's form.

    Raises:
        EngineRefusedError, EngineError: as ``check_reply`` does.
    """
    if isinstance(answer, EngineReply):
        return form.whole(check_reply(answer), headers)
    return StreamReply(200, form.content_type, _relay(answer, form), headers, answer.close)


async def _relay(answer: OpenAnswer, form: Translation) -> AsyncGenerator[bytes]:
    """Yield the engine's events in their form; a death midway becomes an error event and a cut connection."""
    try:
        async for piece in _with_keep_alive(answer.stream.chunks(_SILENCE_SECONDS), form.takes_comments):
            if out := (piece if piece is _KEEP_ALIVE else form.feed(piece)):
                yield out
    except EngineError as error:
        yield form.fail(error)
        raise StreamCutError from error
    if out := form.finish():
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
