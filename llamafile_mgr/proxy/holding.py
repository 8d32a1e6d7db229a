"""Delivering an answer that may take long: held while a model loads, cancelled when the client leaves.

Most clients give up at the first 503, and at a read timeout of 5 to 60 seconds. Spaces before a JSON value,
and comments between events, restart that timer in every client that was tried; interim answers (1xx) break
some. They commit us to status 200, so they come late and only where the format allows.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType

from llamafile_mgr.proxy.exchange import Exchange
from llamafile_mgr.proxy.http import ClientGoneError, Drip, Progress, Reply, StreamReply

__all__ = ["Delivery"]

_TYPES = {Drip.JSON: "application/json", Drip.EVENTS: "text/event-stream"}
_LONGEST_SILENCE_SECONDS = 5.0


class Delivery:
    """One request's way back. ``headers``: sent with any answer."""

    def __init__(self, exchange: Exchange, headers: dict[str, str]) -> None:
        self.headers = headers
        self._exchange = exchange
        self._begun: Drip = Drip.NONE
        self._timer: asyncio.TimerHandle | None = None

    async def hold(
        self, work: Callable[[], Awaitable[Reply | StreamReply]], progress: Progress, silence_seconds: float
    ) -> Reply | StreamReply:
        """Await ``work``; after ``silence_seconds`` of holding begin to keep the connection alive.

        Raises:
            ClientGoneError: the client went away; the work is cancelled.
        """
        self._set_timer(silence_seconds, progress, silence_seconds)
        try:
            with _EndedByClient(self._exchange):
                return await work()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _set_timer(self, seconds: float, progress: Progress, silence_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._keep_alive, progress, silence_seconds)

    def _keep_alive(self, progress: Progress, silence_seconds: float) -> None:
        self._set_timer(min(silence_seconds, _LONGEST_SILENCE_SECONDS), progress, silence_seconds)
        if self._begun is Drip.NONE:
            if progress.drip is Drip.NONE or progress.pool is None or progress.pool.ready:
                return
            self._begun = progress.drip
            headers = {"content-type": _TYPES[self._begun], "cache-control": "no-store", **self.headers}
            self._exchange.begin(200, headers)
        self._exchange.write(self._begun.value)

    async def send(self, reply: Reply | StreamReply) -> int:
        """Send the answer, or what is left of one that has begun; return its status.

        Raises:
            ClientGoneError: the client went away; during a stream its engine is given back.
        """
        if isinstance(reply, StreamReply):
            await self._send_stream(reply)
        elif self._begun is Drip.NONE:
            headers = {"content-type": reply.content_type, **reply.headers, **self.headers}
            await self._exchange.send(reply.status, headers, reply.body)
        else:
            event = self._begun is Drip.EVENTS
            self._exchange.write(b"data: " + reply.body + b"\n\n" if event else reply.body)
            await self._exchange.end()
        return reply.status

    async def _send_stream(self, reply: StreamReply) -> None:
        """Send each piece as it comes; the body ends properly only when the pieces ended properly."""
        exchange = self._exchange
        try:
            if self._begun is Drip.NONE:
                headers = {"content-type": reply.content_type, "cache-control": "no-store"}
                exchange.begin(reply.status, {**headers, **reply.headers, **self.headers})
            with _EndedByClient(exchange):
                async for piece in reply.chunks:
                    await exchange.stream(piece)
                await exchange.end()
        finally:
            await reply.chunks.aclose()  # type: ignore[attr-defined]


class _EndedByClient:
    """A context that is cancelled when the client goes away, and then raises ClientGoneError."""

    __slots__ = ("_exchange", "_left", "_task")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._left = False
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> None:
        if self._exchange.gone:
            raise ClientGoneError
        self._task = asyncio.current_task()
        self._exchange.on_gone = self._leave

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exchange.on_gone = None
        if not self._left or self._task is None:
            return
        # Somebody else who cancelled us at the same moment must not be overheard.
        cancelled_again = sys.version_info >= (3, 11) and self._task.uncancel() > 0
        if kind is asyncio.CancelledError and not cancelled_again:
            raise ClientGoneError from None

    def _leave(self) -> None:
        self._left = True
        if self._task is not None:
            self._task.cancel()
