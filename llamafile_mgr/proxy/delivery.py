"""Delivering an answer that may take long: held while a model loads, cancelled when the client leaves.

Most clients give up at the first 503, and at a read timeout of 5 to 60 seconds. Spaces before a JSON value,
and comments between events, restart that timer in every client that was tried; interim answers (1xx) break
some. They commit us to status 200, so they come only when a client is about to give up, and only where the
format allows; a refusal that comes after them cuts the connection, so that no client takes it for an answer.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from llamafile_mgr.proxy.exchange import Exchange
from llamafile_mgr.proxy.front import Handler
from llamafile_mgr.proxy.http import (
    ClientGoneError,
    Padding,
    Reply,
    Request,
    RequestProgress,
    StreamCutError,
    StreamReply,
)

_TYPES = {Padding.JSON: "application/json", Padding.EVENTS: "text/event-stream"}
_LONGEST_SILENCE_SECONDS = 5.0


class Delivery:
    """One request's way back. ``headers``: sent with any answer."""

    def __init__(self, exchange: Exchange, headers: dict[str, str]) -> None:
        self.headers = headers
        self._exchange = exchange
        self._begun: Padding = Padding.NONE
        self._timer: asyncio.TimerHandle | None = None

    async def hold(self, handler: Handler, request: Request, silence_seconds: float) -> Reply | StreamReply:
        """Await the handler's reply. After ``silence_seconds`` keep the connection alive where that is needed
        and safe.

        Raises:
            ClientGoneError: the client went away; the handler is cancelled.
        """
        self._keep_alive_in(silence_seconds, request.progress)
        try:
            with _UntilGone(self._exchange):
                return await handler(request)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _keep_alive_in(self, seconds: float, progress: RequestProgress) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._keep_alive, seconds, progress)

    def _keep_alive(self, silence_seconds: float, progress: RequestProgress) -> None:
        """Send what the format allows while its model loads."""
        self._keep_alive_in(min(silence_seconds, _LONGEST_SILENCE_SECONDS), progress)
        if self._begun is Padding.NONE:
            if progress.padding is Padding.NONE or progress.pool is None or progress.pool.ready:
                return
            self._begun = progress.padding
            headers = {"content-type": _TYPES[self._begun], "cache-control": "no-store", **self.headers}
            self._exchange.begin(200, headers)
        self._exchange.write(self._begun.value)

    async def send(self, reply: Reply | StreamReply) -> int:
        """Send the answer, or what is left of one that has begun; return its status.

        Raises:
            ClientGoneError: the client went away; during a stream its engine is given back.
            StreamCutError: it is an error, and the head of a good answer is out: the connection must end.
        """
        if isinstance(reply, StreamReply):
            await self._send_stream(reply)
        elif self._begun is Padding.NONE:
            headers = {"content-type": reply.content_type, **reply.headers, **self.headers}
            await self._exchange.send(reply.status, headers, reply.body)
        else:
            event, good = self._begun is Padding.EVENTS, reply.status == 200
            if good or self._exchange.version == "1.1":  # older clients cannot see that an answer was cut
                self._exchange.write(b"data: " + reply.body + b"\n\n" if event else reply.body)
            if not good:
                raise StreamCutError
            await self._exchange.end()
        return reply.status

    async def _send_stream(self, reply: StreamReply) -> None:
        """Send each piece as it comes; the body ends properly only when the pieces ended properly."""
        exchange = self._exchange
        try:
            if self._begun is Padding.NONE:
                headers = {"content-type": reply.content_type, "cache-control": "no-store"}
                exchange.begin(reply.status, {**headers, **reply.headers, **self.headers})
            with _UntilGone(exchange):
                async for piece in reply.chunks:
                    await exchange.stream(piece)
                await exchange.end()
        finally:
            try:
                await reply.chunks.aclose()
            finally:
                reply.close()


class _UntilGone:
    """A context that ClientGoneError ends when the client leaves, wherever it waits."""

    __slots__ = ("_exchange", "_left")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._left = False

    def __enter__(self) -> None:
        if self._exchange.gone:
            raise ClientGoneError
        self._exchange.on_gone = self._leave

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exchange.on_gone = None
        if not self._left or self._exchange.task is None:
            return
        # Somebody else who cancelled us at the same moment must not be overheard.
        cancelled_again = self._exchange.task.uncancel() > 0
        if kind is asyncio.CancelledError and not cancelled_again:
            raise ClientGoneError from None

    def _leave(self) -> None:
        if not self._left and self._exchange.task is not None:
            self._left = True
            self._exchange.task.cancel()
