"""Delivering an answer that may take long: held while a model loads, cancelled when the client leaves.

Most clients give up at the first 503, and at a read timeout of 5 to 60 seconds. Spaces before a JSON value,
and comments between events, restart that timer in every client that was tried; interim answers (1xx) break
some. They commit us to status 200, so they come late and only where the format allows.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from llamafile_mgr.proxy.http import (
    ClientGoneError,
    Drip,
    Progress,
    Receive,
    Reply,
    Send,
    StreamReply,
    await_disconnect,
    head_message,
    run_until_disconnect,
    send_reply,
    send_stream,
)

__all__ = ["Delivery"]

_TYPES = {Drip.JSON: "application/json", Drip.EVENTS: "text/event-stream"}
_LONGEST_SILENCE_SECONDS = 5.0
_WATCH_AFTER_SECONDS = 0.02


class Delivery:
    """One request's way back. ``headers``: sent with any answer."""

    def __init__(self, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        self.receive = receive
        self.headers = headers
        self._send = send
        self._begun: Drip = Drip.NONE
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    async def hold(
        self, work: Callable[[], Awaitable[Reply | StreamReply]], progress: Progress, silence_seconds: float
    ) -> Reply | StreamReply:
        """Await ``work``; after ``silence_seconds`` of holding begin to keep the connection alive.

        Raises:
            ClientGoneError: the client went away; the work is cancelled.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        # A call that is answered at once needs nobody to watch its client.
        timer = asyncio.get_running_loop().call_later(
            _WATCH_AFTER_SECONDS, self._begin_watch, task, progress, silence_seconds
        )
        try:
            return await work()
        except asyncio.CancelledError:
            if not self._gone:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
            raise ClientGoneError from None
        finally:
            timer.cancel()
            if self._watcher is not None:
                self._watcher.cancel()
                await asyncio.gather(self._watcher, return_exceptions=True)

    def _begin_watch(self, task: asyncio.Task[object], progress: Progress, silence_seconds: float) -> None:
        self._watcher = asyncio.ensure_future(self._watch(task, progress, silence_seconds))

    async def _watch(self, task: asyncio.Task[object], progress: Progress, silence_seconds: float) -> None:
        """Cancel ``task`` when the client goes away; keep the connection alive until then."""
        leaving = asyncio.ensure_future(await_disconnect(self.receive))
        silence = silence_seconds
        try:
            while not (await asyncio.wait({leaving}, timeout=silence))[0]:
                silence = min(silence_seconds, _LONGEST_SILENCE_SECONDS)
                await self._drip(progress)
            self._gone = True
            task.cancel()
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    async def _drip(self, progress: Progress) -> None:
        if self._begun is Drip.NONE:
            if progress.drip is Drip.NONE or progress.pool is None or progress.pool.ready:
                return
            self._begun = progress.drip
            headers = {"content-type": _TYPES[self._begun], "cache-control": "no-store", **self.headers}
            await self._send(head_message(200, headers))
        await self._send({"type": "http.response.body", "body": self._begun.value, "more_body": True})

    async def send(self, reply: Reply | StreamReply) -> int:
        """Send the answer, or what is left of one that has begun; return its status.

        Raises:
            ClientGoneError: the client went away during a stream, whose engine is given back.
        """
        if isinstance(reply, StreamReply):
            await self._send_stream(reply)
        elif self._begun is Drip.NONE:
            headers = {**reply.headers, **self.headers}
            await send_reply(self._send, Reply(reply.status, reply.body, reply.content_type, headers))
        else:
            body = reply.body
            if self._begun is Drip.EVENTS:
                body = b"data: " + body + b"\n\n"
            await self._send({"type": "http.response.body", "body": body})
        return reply.status

    async def _send_stream(self, reply: StreamReply) -> None:
        begun = self._begun is not Drip.NONE
        stream = StreamReply(
            reply.status, reply.content_type, reply.chunks, {**reply.headers, **self.headers}
        )
        try:
            await run_until_disconnect(send_stream(self._send, stream, begun=begun), self.receive)
        finally:
            await reply.chunks.aclose()  # type: ignore[attr-defined]
