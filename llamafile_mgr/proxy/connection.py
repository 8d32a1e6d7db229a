"""HTTP/1.1 connections of clients on asyncio, with httptools (llhttp) as the parser.

Every embedding call of every client passes here, which a general server's layers would dominate. Requests
of one connection are answered one after another. A client that is slow with its head, idle, or sends what
is no HTTP is let go. Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from llamafile_mgr.proxy.exchange import Exchange, render_head

#: All of a request's head; browsers with many cookies stay far below.
_MAX_HEAD_BYTES = 64 * 1024
#: For a client to read an answer that came before the end of its body: closing at once could destroy it.
_LINGER_SECONDS = 2.0


@dataclass(slots=True)
class Connections:
    """What the connections of one server share. ``answer`` is run as a task for every request.

    ``header_seconds``: from a head's first byte to its last, and for what is left of a body after its
    answer. ``idle_seconds``: between requests, and for a client that takes nothing of its answer.
    """

    answer: Callable[[Exchange], Awaitable[None]]
    header_seconds: float
    idle_seconds: float
    secure: bool
    open: set[Connection] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    draining: bool = False


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, shared: Connections) -> None:
        self._address = ""
        self.stall_seconds = shared.idle_seconds
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._incoming: Exchange | None = None
        self._offering: Exchange | None = None
        self._current: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._head_bytes = 0
        self._in_head = False
        self._last = False
        self._ended = False
        self._reading = True
        self._lagging = False
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None

    # For our exchanges.

    def write(self, data: bytes) -> None:
        """Send bytes, or hold them back while the client does not take them."""
        if self._transport is not None and not self._ended and not self._transport.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Take no more from the client for now."""
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more again."""
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    @property
    def unsent(self) -> int:
        """Return how many bytes wait for the client, 0 unless there are so many that we should wait too."""
        return self._transport.get_write_buffer_size() if self._lagging and self._transport else 0

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # For the server.

    def drain(self) -> None:
        """End the connection after the answer that is under way, now if there is none."""
        if self._current is not None:
            self._current.reusable = False
            self._last = self._current.complete
        else:
            self._close(linger=False)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = self._transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else ""
        self._shared.open.add(self)
        self._set_deadline(self._shared.idle_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._lagging = False
        self._waiting.clear()
        for exchange in (self._current, self._incoming):
            if exchange is not None:
                exchange.leave()

    def pause_writing(self) -> None:
        self._lagging = True

    def resume_writing(self) -> None:
        self._lagging = False
        if self._current is not None:
            self._current.wake()

    def data_received(self, data: bytes) -> None:
        if self._last:
            return  # behind a request that was said to be the last
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            if not self._last:
                self._refuse(400)
            return
        if self._in_head:
            if self._head_bytes == 0:
                self._set_deadline(self._shared.header_seconds)
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(431)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request again without its offer of another protocol (RFC 9110, 7.8), which Java's client
        makes with its first; the parser takes its body for that protocol."""
        exchange, self._offering = self._offering, None
        self._parser = httptools.HttpRequestParser(self)
        if exchange is None or exchange.method == "CONNECT":
            self._refuse(400)
            return
        kept = [f"{n}: {v}\r\n" for n, v in exchange.headers.items() if n not in ("upgrade", "connection")]
        line = b"%b %b HTTP/1.1\r\n" % (exchange.method.encode("latin-1"), exchange.target)
        self.data_received(line + "".join(kept).encode("latin-1") + b"\r\n" + rest)

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._incoming = Exchange(self, self._address, "https" if self._shared.secure else "http")
        self._in_head = True
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        if self._incoming is not None:
            self._incoming.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head and self._incoming is not None:  # trailers, after the body, are of no interest
            headers = self._incoming.headers
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        exchange = self._incoming
        if exchange is None:
            return
        self._in_head = False
        exchange.method = self._parser.get_method().decode("latin-1")
        if self._parser.should_upgrade():
            self._offering, self._incoming = exchange, None
            return
        exchange.version = self._parser.get_http_version()
        exchange.reusable = exchange.version == "1.1" and self._parser.should_keep_alive()
        exchange.expects_continue = exchange.headers.get("expect", "").lower() == "100-continue"
        if self._current is None:
            self._start(exchange)
        else:
            self._waiting.append(exchange)
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        if self._incoming is not None:
            self._incoming.take(body)

    def on_message_complete(self) -> None:
        exchange, self._incoming = self._incoming, None
        if exchange is None:
            return
        exchange.finish_request()
        if not exchange.reusable:
            self._last = True
        if exchange is self._current and exchange.answered:
            self._go_on()  # it was answered before its body had ended

    # One after another.

    def _start(self, exchange: Exchange) -> None:
        self._current = exchange
        if not self._in_head:
            self._deadline = math.inf
        exchange.task = self._loop.create_task(self._run(exchange))
        self._shared.tasks.add(exchange.task)

    async def _run(self, exchange: Exchange) -> None:
        """Answer one request, and see to what comes after it."""
        try:
            await self._shared.answer(exchange)
        finally:
            if exchange.task is not None:
                self._shared.tasks.discard(exchange.task)
            if exchange.answered:
                self._finish(exchange)
            else:
                self._close(linger=False)  # without a proper end, so that the client knows that it was cut

    def _finish(self, exchange: Exchange) -> None:
        if not exchange.reusable or self._shared.draining:
            self._close(linger=not exchange.complete)
        elif exchange.complete:
            self._go_on()
        else:
            self.resume_reading()
            self._set_deadline(self._shared.header_seconds)

    def _close(self, *, linger: bool) -> None:
        """End the connection when everything is sent; ``linger``: the client may still be sending."""
        self._last = True
        if self._transport is None or self._transport.is_closing():
            return
        if linger and not self._ended and self._transport.can_write_eof():
            self._ended = True
            self._transport.write_eof()
            self.resume_reading()
            self._set_deadline(_LINGER_SECONDS)
        else:
            self._transport.close()
            self._set_deadline(self._shared.idle_seconds)

    def _go_on(self) -> None:
        """Start the request that waits, or wait for one."""
        self._current = None
        if self._waiting:
            self._start(self._waiting.popleft())
        elif not self._in_head:
            self._set_deadline(self._shared.idle_seconds)
        if not self._waiting:
            self.resume_reading()

    def _refuse(self, status: int) -> None:
        """End the connection over what cannot be understood; a whole request before it is answered still."""
        self._last, self._in_head, self._incoming = True, False, None
        current = self._current
        if current is not None and current.complete and not current.answered:
            current.reusable = False
            return
        if current is None or not current.begun:
            text = b"the request is not HTTP, or its head is too large or too slow\n"
            headers = {"content-type": "text/plain", "content-length": str(len(text)), "connection": "close"}
            self.write(render_head(status, headers) + text)
        if current is not None:
            current.leave()
        self._close(linger=True)

    # One timer for all deadlines: they move with every request, and it seldom.

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() <= self._deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._deadline == math.inf or self._transport is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        elif self._transport.is_closing():
            self._transport.abort()  # what is unsent is not being taken
        elif self._in_head:
            self._refuse(408)
        else:
            self._close(linger=False)
