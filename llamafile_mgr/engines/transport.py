"""HTTP/1.1 to an engine: kept-alive connections on asyncio with httptools as the parser.

An engine is asked thousands of times a second, which a general client would dominate. Only what engines
speak is here: no redirects, no compression, no TLS. One exchange at a time per connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import cast

import httptools

from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.errors import EngineError, EngineLostError

__all__ = ["EngineClient", "EngineStream"]

#: A reply larger than this is no reply of an engine (1,000 vectors of 4,096 floats as text are 90 MB).
_MAX_REPLY_BYTES = 512 * 1024 * 1024
#: Above this much unread data a stream stops reading from its socket.
_HIGH_WATER_BYTES = 1024 * 1024
_CONNECT_SECONDS = 5.0


class _Exchange:
    """One request's reply as it arrives."""

    __slots__ = ("body", "buffered", "complete", "error", "head", "headers", "started", "status", "waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body: deque[bytes] = deque()
        self.buffered = 0
        self.started = False
        self.complete = False
        self.error: EngineLostError | None = None
        self.head: asyncio.Future[None] = loop.create_future()
        self.waiter: asyncio.Future[None] | None = None

    @property
    def ends_with_connection(self) -> bool:
        """Tell whether the end of the body is the end of the connection (RFC 9112, 6.3)."""
        framed = "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "")
        return self.head.done() and not framed

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def fail(self, error: EngineLostError) -> None:
        if not self.complete and self.error is None:
            self.error = error
            if not self.head.done():
                self.head.set_result(None)
            self.wake()


class _Connection(asyncio.Protocol):
    """One socket; parses into the exchange that is in progress."""

    def __init__(self, client: EngineClient) -> None:
        self.peer = f"{client.host}:{client.port}"
        self._client = client
        self.transport: asyncio.Transport | None = None
        self.exchange: _Exchange | None = None
        self.reusable = True
        self.used = False
        self._parser: httptools.HttpResponseParser | None = None
        self._paused = False

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def begin(self, data: bytes) -> _Exchange:
        """Send a request and return its exchange.

        Raises:
            EngineLostError: the connection broke since it was made: nothing would end the exchange.
        """
        if self.transport is None or self.transport.is_closing():
            raise EngineLostError(f"the connection to the engine at {self.peer} is closed")
        self.exchange = _Exchange(asyncio.get_running_loop())
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(data)
        return self.exchange

    def finish(self) -> None:
        """Forget a complete exchange, so that the connection can serve the next."""
        self.exchange = None
        self.used = True

    def abort(self) -> None:
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()

    def resume(self) -> None:
        if self._paused and self.transport is not None and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._client.last_received = time.monotonic()
        if self.exchange is None or self._parser is None:
            self.abort()  # nobody asked: whatever this is, it must not answer the next request
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.exchange.fail(EngineLostError(f"the engine at {self.peer} answered no HTTP: {error}"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if self.exchange is not None and exc is None and self.exchange.ends_with_connection:
            self.on_message_complete()
        elif self.exchange is not None:
            reason = str(exc) if exc else "connection closed"
            self.exchange.fail(EngineLostError(f"the engine at {self.peer} broke off its answer: {reason}"))

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self.exchange is not None:
            self.exchange.started = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.exchange is not None:
            self.exchange.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self.exchange is None or self._parser is None:
            return
        self.exchange.status = self._parser.get_status_code()
        self.reusable = self._parser.should_keep_alive()
        if not self.exchange.head.done():
            self.exchange.head.set_result(None)

    def on_body(self, body: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        exchange.body.append(body)
        exchange.buffered += len(body)
        if exchange.buffered > _HIGH_WATER_BYTES and not self._paused and self.open:
            self._paused = True
            cast(asyncio.Transport, self.transport).pause_reading()
        exchange.wake()

    def on_message_complete(self) -> None:
        if self.exchange is not None:
            self.exchange.complete = True
            self.exchange.wake()


class EngineStream:
    """A reply whose body is read as it arrives. Close it, or read it to its end."""

    def __init__(self, client: EngineClient, connection: _Connection, exchange: _Exchange) -> None:
        self._client = client
        self._connection = connection
        self._exchange = exchange
        self.status = exchange.status
        self.content_type = exchange.headers.get("content-type", "")

    async def chunks(self, silence_seconds: float) -> AsyncIterator[bytes]:
        """Yield the body's pieces as they come.

        Raises:
            EngineLostError: the connection broke before the end.
            EngineError: nothing came for ``silence_seconds``.
        """
        exchange = self._exchange
        while True:
            while exchange.body:
                piece = b"".join(exchange.body)
                exchange.body.clear()
                exchange.buffered = 0
                self._connection.resume()
                yield piece
            if exchange.complete:
                return
            if exchange.error is not None:
                raise exchange.error
            await _wait_for_data(exchange, silence_seconds)

    async def read(self, silence_seconds: float) -> EngineReply:
        """Read the rest and return the whole reply; raises as ``chunks`` does."""
        pieces, total = [], 0
        async for piece in self.chunks(silence_seconds):
            pieces.append(piece)
            total += len(piece)
            if total > _MAX_REPLY_BYTES:
                raise EngineError(f"the engine sent more than {_MAX_REPLY_BYTES >> 20} MiB in one answer")
        return EngineReply(self.status, self.content_type, b"".join(pieces))

    def close(self) -> None:
        """Give the connection back, or break it off when the body was not read to its end."""
        self._client._release(self._connection, self._exchange)


async def _wait_for_data(exchange: _Exchange, seconds: float) -> None:
    exchange.waiter = asyncio.get_running_loop().create_future()
    try:
        await asyncio.wait_for(exchange.waiter, seconds)
    except asyncio.TimeoutError:
        raise EngineError(f"the engine said nothing for {seconds:g} seconds") from None
    finally:
        exchange.waiter = None


class EngineClient:
    """A pool of connections to one engine on loopback.

    ``last_received``: monotonic seconds of the latest byte that came from it.
    """

    def __init__(self, host: str, port: int, *, api_key: str | None = None, max_idle: int = 64) -> None:
        self.host = host
        self.port = port
        self.last_received = time.monotonic()
        self._max_idle = max_idle
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._closed = False
        lines = [f"host: {host}:{port}", "accept: */*", "content-type: application/json"]
        if api_key is not None:
            lines.append(f"authorization: Bearer {api_key}")
        self._headers = "\r\n".join(lines)

    async def request(self, request: EngineRequest, *, deadline_seconds: float) -> EngineReply:
        """Send ``request`` and return the whole reply.

        Raises:
            EngineLostError: no connection, or it broke.
            EngineError: no whole answer within ``deadline_seconds``.
        """
        try:
            return await asyncio.wait_for(self._request(request, deadline_seconds), deadline_seconds)
        except asyncio.TimeoutError:
            raise EngineError(
                f"the engine did not answer {request.path} within {deadline_seconds:g} seconds"
            ) from None

    async def _request(self, request: EngineRequest, deadline_seconds: float) -> EngineReply:
        stream = await self.open_stream(request, deadline_seconds=deadline_seconds)
        try:
            return await stream.read(deadline_seconds)
        finally:
            stream.close()

    async def open_stream(self, request: EngineRequest, *, deadline_seconds: float) -> EngineStream:
        """Send ``request`` and return as soon as the reply's head is there.

        A kept-alive connection that the engine had already dropped is replaced once: nothing had been
        answered on it. Raises as ``request`` does.
        """
        data = self._serialize(request)
        while True:
            connection = await self._acquire()
            fresh = not connection.used
            exchange = connection.begin(data)
            try:
                await asyncio.wait_for(asyncio.shield(exchange.head), deadline_seconds)
            except asyncio.TimeoutError:
                self._release(connection, exchange)
                raise EngineError(
                    f"the engine did not answer {request.path} within {deadline_seconds:g} seconds"
                ) from None
            except BaseException:
                self._release(connection, exchange)
                raise
            if exchange.error is None:
                return EngineStream(self, connection, exchange)
            self._release(connection, exchange)
            if fresh or exchange.started:
                raise exchange.error

    def _serialize(self, request: EngineRequest) -> bytes:
        body = request.body or b""
        start = f"{request.method} {request.path} HTTP/1.1\r\n{self._headers}\r\n"
        return f"{start}content-length: {len(body)}\r\n\r\n".encode("ascii") + body

    async def _acquire(self) -> _Connection:
        if self._closed:
            raise EngineLostError(f"the engine at {self.host}:{self.port} was stopped")
        while self._idle:
            connection = self._idle.pop()
            if connection.open and connection.reusable:
                self._busy.add(connection)
                return connection
        loop = asyncio.get_running_loop()
        peer = f"{self.host}:{self.port}"
        try:
            _, connection = await asyncio.wait_for(
                loop.create_connection(lambda: _Connection(self), self.host, self.port), _CONNECT_SECONDS
            )
        except (OSError, asyncio.TimeoutError) as error:
            raise EngineLostError(f"cannot reach the engine at {peer}: {error or 'no answer'}") from error
        self._busy.add(connection)
        return connection

    def _release(self, connection: _Connection, exchange: _Exchange) -> None:
        self._busy.discard(connection)
        if connection.exchange is not exchange:
            return  # already given back
        whole = exchange.complete and exchange.error is None
        connection.finish()
        if whole and connection.reusable and not self._closed and len(self._idle) < self._max_idle:
            connection.resume()
            self._idle.append(connection)
        else:
            connection.abort()

    async def close(self) -> None:
        """Break off everything that is in progress and close all connections."""
        self._closed = True
        for connection in [*self._idle, *self._busy]:
            connection.abort()
        self._idle.clear()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
