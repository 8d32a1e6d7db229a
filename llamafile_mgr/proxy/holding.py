"""Delivering an answer that may take long: held while a model loads, cancelled when the client leaves.

Most clients give up at the first 503, and at a read timeout of 5 to 60 seconds. Spaces before a JSON value,
and comments between events, restart that timer in every client that was tried; interim answers (1xx) break
some. They commit us to status 200, so they come late and only where the format allows.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from llamafile_mgr.embedding.interruption import Interruption
from llamafile_mgr.proxy.exchange import Exchange
from llamafile_mgr.proxy.front import Handler
from llamafile_mgr.proxy.http import ClientGoneError, Drip, Progress, Reply, Request, StreamReply
from llamafile_mgr.proxy.refusals import DeadlineError

__all__ = ["Delivery"]

_TYPES = {Drip.JSON: "application/json", Drip.EVENTS: "text/event-stream"}
_LONGEST_SILENCE_SECONDS = 5.0
#: How coarse the loop's clock may be.
_CLOCK_SECONDS = 0.002


class Delivery:
    """One request's way back. ``headers``: sent with any answer."""

    def __init__(self, exchange: Exchange, headers: dict[str, str]) -> None:
        self.headers = headers
        self._exchange = exchange
        self._begun: Drip = Drip.NONE

    async def hold(
        self, handler: Handler, request: Request, silence_seconds: float, seconds: float
    ) -> Reply | StreamReply:
        """Await the handler's reply, at most ``seconds``. After ``silence_seconds`` keep the connection alive
        where that is needed and safe.

        Raises:
            ClientGoneError: the client went away; the handler is cancelled.
            DeadlineError: its time is over; it is cancelled.
        """
        interruption = _UntilGone(self._exchange)
        with interruption:
            watch = _Watch(self, request.progress, silence_seconds, seconds, interruption)
            try:
                return await handler(request)
            finally:
                watch.cancel()

    def keep_alive(self, progress: Progress) -> None:
        """Send what the format allows while its model loads."""
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
            with _UntilGone(exchange):
                async for piece in reply.chunks:
                    await exchange.stream(piece)
                await exchange.end()
        finally:
            await reply.chunks.aclose()  # type: ignore[attr-defined]


class _Watch:
    """One timer for both: keeping the connection alive, and the end of patience."""

    __slots__ = ("_delivery", "_end", "_interruption", "_progress", "_seconds", "_silence", "_timer")

    def __init__(
        self,
        delivery: Delivery,
        progress: Progress,
        silence_seconds: float,
        seconds: float,
        interruption: Interruption,
    ) -> None:
        self._delivery = delivery
        self._progress = progress
        self._silence = silence_seconds
        self._seconds = seconds
        self._interruption = interruption
        loop = asyncio.get_running_loop()
        self._end = loop.time() + seconds
        self._timer = loop.call_later(min(silence_seconds, seconds), self._look)

    def cancel(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._end - loop.time()
        if left <= _CLOCK_SECONDS:
            said = f"there was no answer within {self._seconds:g} seconds"
            self._interruption.interrupt(DeadlineError(said))
            return
        wait = min(self._silence, _LONGEST_SILENCE_SECONDS, left)
        self._timer = loop.call_later(wait, self._look)
        self._delivery.keep_alive(self._progress)


class _UntilGone(Interruption):
    """A context that ClientGoneError ends when the client leaves."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange.task)
        self._exchange = exchange

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
        super().__exit__(kind, error, traceback)

    def _leave(self) -> None:
        self.interrupt(ClientGoneError())
