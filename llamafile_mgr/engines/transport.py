"""HTTP/1.1 to an engine: kept-alive connections on asyncio with httptools as the parser.

An engine is asked thousands of times a second, which a general client would dominate. Only what engines
speak is here: no redirects, no compression; TLS for remote ones. One exchange at a time per connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.errors import EngineError, EngineLostError, EngineStartError, EngineUnreachedError

#: A reply larger than this is no reply of an engine (500 vectors of 4,096 floats as text are 45 MB).
_MAX_REPLY_BYTES = 64 * 1024 * 1024
#: A reply's head is smaller. So much of a chunked body may be sizes, extensions and trailers, and as much
#: again as it has data.
_MAX_HEAD_BYTES = 64 * 1024
_TOO_MUCH = f"the engine sent more than {_MAX_REPLY_BYTES >> 20} MiB in one answer"
#: Above this much unread data a stream stops reading from its socket.
_HIGH_WATER_BYTES = 1024 * 1024
_CONNECT_SECONDS = 5.0
#: The headers of a reply that anything here depends on.
_HEADERS = {
    b"content-type": "content-type",
    b"content-length": "content-length",
    b"transfer-encoding": "transfer-encoding",
    b"x-vector-space": "x-vector-space",
}


@dataclass(slots=True, eq=False)
class _Exchange:
    """One request's reply as it arrives. ``streamed``: its reader takes the body piece by piece.

    ``received``, ``raw``: bytes of the body, and those that the reply came in.
    """

    path: str
    streamed: bool
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | bytearray = b""
    received: int = 0
    raw: int = 0
    started: bool = False
    framed: bool = True
    complete: bool = False
    error: EngineError | None = None
    _waiter: asyncio.Future[None] | None = None

    @property
    def answered(self) -> bool:
        """Tell whether the reply's head is there."""
        return self.status != 0

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: EngineError) -> None:
        if not self.complete and self.error is None:
            self.error = error
            self.wake()

    async def wait(self, seconds: float | None, limit: float | None) -> None:
        """Wait for the next piece, or for the end of a reply that is not streamed.

        After ``seconds``, the rest of ``limit``, the exchange fails. No task, and for None no timer: the hot
        path, whose callers cancel.
        """
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self._time_out, limit) if seconds is not None else None
        try:
            await self._waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._waiter = None

    def _time_out(self, limit: float | None) -> None:
        what = "said nothing for" if self.streamed and self.answered else f"did not answer {self.path} within"
        self.fail(EngineError(f"the engine {what} {limit or 0:g} seconds"))


class _Connection(asyncio.Protocol):
    """One socket; parses into the exchange that is in progress."""

    def __init__(self, client: EngineClient) -> None:
        self.peer = client.peer
        self._client = client
        self.transport: asyncio.Transport | None = None
        self.exchange: _Exchange | None = None
        self.reusable = True
        self.used = False
        self._parser = httptools.HttpResponseParser(self)
        self._paused = False

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def begin(self, data: bytes, path: str, *, streamed: bool) -> _Exchange:
        """Send a request and return its exchange.

        Raises:
            EngineLostError: the connection broke since it was made: nothing would end the exchange.
        """
        if self.transport is None or self.transport.is_closing():
            self._client.forget(self)
            raise EngineUnreachedError(f"the connection to the engine at {self.peer} is closed")
        self.exchange = _Exchange(path, streamed=streamed)
        self.transport.write(data)
        return self.exchange

    def peer_address(self) -> str:
        """Return the address at the other end. Raises EngineUnreachedError: the connection is gone."""
        peer = None
        if self.transport is not None:
            with contextlib.suppress(AttributeError):  # uvloop may have no socket to ask any more
                peer = self.transport.get_extra_info("peername")
        if not peer:
            raise EngineUnreachedError(f"the connection to the engine at {self.peer} is closed")
        return str(peer[0])

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
        exchange = self.exchange
        if exchange is None:
            self.abort()  # nobody asked: whatever this is, it must not answer the next request
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break_off(exchange, str(error.__context__ or error))
            return
        if not exchange.complete:
            exchange.raw += len(data)
            if exchange.raw > 2 * (exchange.received + _MAX_HEAD_BYTES):
                self._break_off(exchange, "it is mostly a head, sizes of chunks or trailers")

    def _break_off(self, exchange: _Exchange, why: str) -> None:
        exchange.fail(EngineLostError(f"the engine at {self.peer} answered no HTTP: {why}"))
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        exchange = self.exchange
        if exchange is not None and exc is None and exchange.answered and not exchange.framed:
            self.on_message_complete()  # the end of the body is the end of the connection (RFC 9112, 6.3)
        elif exchange is not None:
            reason = str(exc) if exc else "connection closed"
            exchange.fail(EngineLostError(f"the engine at {self.peer} broke off its answer: {reason}"))

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self.exchange is not None:
            self.exchange.started = True

    def on_header(self, name: bytes, value: bytes) -> None:
        known = _HEADERS.get(name.lower())
        if known is not None and self.exchange is not None:
            self.exchange.headers[known] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        status = self._parser.get_status_code()
        if status < 200:  # not the answer yet (RFC 9110, 15.2)
            exchange.headers.clear()
            return
        coding = exchange.headers.get("transfer-encoding")
        if coding is not None and coding.strip(" \t").lower() != "chunked":
            raise ValueError(f"its body is coded as {coding[:50]!r}")
        exchange.framed = coding is not None or "content-length" in exchange.headers
        exchange.status = status
        self.reusable = self._parser.should_keep_alive()
        if exchange.streamed:
            exchange.wake()

    def on_body(self, body: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        exchange.received += len(body)
        if not exchange.body:
            exchange.body = body
        elif isinstance(exchange.body, bytearray):
            exchange.body += body
        else:
            exchange.body = bytearray(exchange.body + body)
        if not exchange.streamed:
            if exchange.received > _MAX_REPLY_BYTES:
                exchange.fail(EngineError(_TOO_MUCH))
                self.abort()
            return
        if len(exchange.body) > _HIGH_WATER_BYTES and not self._paused and self.open:
            self._paused = True
            cast(asyncio.Transport, self.transport).pause_reading()
        exchange.wake()

    def on_message_complete(self) -> None:
        if self.exchange is not None and self.exchange.answered:
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
                piece, exchange.body = exchange.body, b""
                self._connection.resume()
                yield bytes(piece)
            if exchange.complete:
                return
            if exchange.error is not None:
                raise exchange.error
            await exchange.wait(silence_seconds, silence_seconds)

    async def read(self, silence_seconds: float) -> EngineReply:
        """Read the rest and return the whole reply; raises as ``chunks`` does."""
        body = bytearray()
        async for piece in self.chunks(silence_seconds):
            body += piece
            if len(body) > _MAX_REPLY_BYTES:
                raise EngineError(_TOO_MUCH)
        return EngineReply(self.status, self.content_type, bytes(body))

    def close(self) -> None:
        """Give the connection back, or break it off when the body was not read to its end."""
        self._client._release(self._connection, self._exchange)


class EngineClient:
    """A pool of connections to one engine.

    ``last_received``: monotonic seconds of the latest byte that came from it. ``connections_made``: so far.
    For a remote engine: ``prefix`` stands before every path, ``tls`` makes the connections secure, and
    ``check_address`` is given the address of each new connection before anything is sent over it; it raises
    EngineError for one that must not be used.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        api_key: str | None = None,
        max_idle: int = 64,
        prefix: str = "",
        tls: ssl.SSLContext | None = None,
        check_address: Callable[[str], None] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.last_received = time.monotonic()
        self.connections_made = 0
        self._max_idle = max_idle
        self._prefix = prefix
        self._tls = tls
        self._check_address = check_address
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._closed = False
        lines = [f"host: {self.peer}", "accept: */*", "content-type: application/json"]
        if api_key is not None:
            lines.append(f"authorization: Bearer {api_key}")
        self._headers = "\r\n".join(lines)

    async def request(self, request: EngineRequest, *, deadline_seconds: float | None = None) -> EngineReply:
        """Send ``request`` and return the whole reply.

        Raises:
            EngineLostError: no connection, or it broke.
            EngineError: no whole answer within ``deadline_seconds``; None leaves it to who cancels.
        """
        connection, exchange = await self._exchange(request, deadline_seconds, streamed=False)
        self._release(connection, exchange)
        headers = exchange.headers
        return EngineReply(
            exchange.status,
            headers.get("content-type", ""),
            bytes(exchange.body),
            headers.get("x-vector-space"),
        )

    async def open_stream(
        self, request: EngineRequest, *, deadline_seconds: float | None = None
    ) -> EngineStream:
        """Send ``request`` and return as soon as the reply's head is there; raises as ``request`` does."""
        connection, exchange = await self._exchange(request, deadline_seconds, streamed=True)
        return EngineStream(self, connection, exchange)

    async def _exchange(
        self, request: EngineRequest, seconds: float | None, *, streamed: bool
    ) -> tuple[_Connection, _Exchange]:
        """Send ``request``; return when it is answered, or its head is there for one that is streamed.

        A kept-alive connection that the engine had already dropped is replaced: nothing was answered on it.
        When it cannot be, the engine may have died of what was sent.
        """
        data = self._serialize(request)
        end = None if seconds is None else time.monotonic() + seconds
        dropped: EngineError | None = None
        while True:
            try:
                connection = self._take_idle() or await self._connect(
                    min(_CONNECT_SECONDS, seconds or math.inf)
                )
                fresh = not connection.used
                exchange = connection.begin(data, request.path, streamed=streamed)
            except EngineUnreachedError as unreached:
                raise dropped or unreached from unreached.__cause__
            try:
                # Nothing can have come yet: the bytes were written in this very step of the loop.
                left = None if end is None else max(0.001, end - time.monotonic())
                await exchange.wait(left, seconds)
            except asyncio.CancelledError:
                self._release(connection, exchange)
                raise
            if exchange.error is None:
                return connection, exchange
            self._release(connection, exchange)
            if fresh or exchange.started or not isinstance(exchange.error, EngineLostError):
                raise exchange.error
            dropped = exchange.error

    def _serialize(self, request: EngineRequest) -> bytes:
        body = request.body or b""
        start = f"{request.method} {self._prefix}{request.path} HTTP/1.1\r\n{self._headers}\r\n"
        for name, value in request.headers:
            start += f"{name}: {value}\r\n"
        return f"{start}content-length: {len(body)}\r\n\r\n".encode("ascii") + body

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open and connection.reusable:
                self._busy.add(connection)
                return connection
        return None

    async def _connect(self, seconds: float) -> _Connection:
        self._check_open()
        loop = asyncio.get_running_loop()
        name = self.host if self._tls is not None else None
        try:
            _, connection = await asyncio.wait_for(
                loop.create_connection(
                    lambda: _Connection(self), self.host, self.port, ssl=self._tls, server_hostname=name
                ),
                seconds,
            )
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", None) or error.reason or str(error)
            raise EngineStartError(
                f"no secure connection to {self.peer}",
                cause=reason,
                hint="for a certificate of your own authority name its ca_file",
            ) from error
        except (OSError, TimeoutError) as error:
            raise EngineUnreachedError(
                f"cannot reach the engine at {self.peer}: {error or 'no answer'}"
            ) from error
        self.connections_made += 1
        self._busy.add(connection)
        try:
            self._check_open()  # it may have been closed while we connected
            if self._check_address is not None:
                self._check_address(connection.peer_address())
        except EngineError:
            self._busy.discard(connection)
            connection.abort()
            raise
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise EngineUnreachedError(f"the engine at {self.peer} was stopped")

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

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that broke before anything was sent over it."""
        self._busy.discard(connection)

    async def close(self) -> None:
        """Break off everything that is in progress and close all connections."""
        self._closed = True
        for connection in [*self._idle, *self._busy]:
            connection.abort()
        self._idle.clear()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
