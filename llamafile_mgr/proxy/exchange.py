"""One HTTP request on a connection, and the way back to its client."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from llamafile_mgr.errors import BodyTooLargeError, BusyError
from llamafile_mgr.proxy.api_errors import SlowBodyError
from llamafile_mgr.proxy.http import ClientGoneError

if TYPE_CHECKING:
    from llamafile_mgr.proxy.connection import Connection

#: Unread bytes of a body above this stop the reading until somebody wants them.
_HIGH_WATER_BYTES = 64 * 1024
#: A body that comes more slowly occupies memory for next to nothing.
_SLOWEST_BYTES_PER_SECOND = 1024
_STATUS_LINES = {int(each): f"HTTP/1.1 {int(each)} {each.phrase}\r\n" for each in HTTPStatus}
#: RFC 9110, 8.6 and 15.3.5: these have neither a body nor a length.
_BODILESS = frozenset({204, 304})
#: What ends a header's line, or is read differently by different parsers.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


_date: tuple[int, str] = (0, "")


def _date_line() -> str:
    """Return the header that every answer carries (RFC 9110, 6.6.1), made once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = now, f"date: {formatdate(now, usegmt=True)}\r\n"
    return _date[1]


def render_head(status: int, headers: Mapping[str, str]) -> bytes:
    """Return the head of a response; control characters in values become ``?``."""
    lines = [_STATUS_LINES[status], _date_line()]
    for name, value in headers.items():
        lines.append(f"{name}: {value if value.isprintable() else _CONTROLS.sub('?', value)}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1", "replace")


@dataclass(slots=True, eq=False)
class Exchange:
    """What the client sent, and what it is answered: one whole reply, or a head and pieces.

    ``address``: the client's. ``target``: as sent. ``headers``: names in lower case; repeated ones are
    joined, so that of two hosts neither is believed. ``gone``: the client has left. ``on_gone`` is called
    when it does. ``task``: answers this request.
    ``begun``: a reply's head has been sent; ``answered``: its end too. ``reusable``: the connection may
    serve another request. ``received``, ``raw``: bytes of the body, and those that it came in. ``held``: of
    those that all bodies together may have, a large one's.
    """

    _line: Connection
    address: str
    scheme: str
    method: str = ""
    target: bytes = b""
    version: str = "1.1"
    headers: dict[str, str] = field(default_factory=dict)
    expects_continue: bool = False
    reusable: bool = True
    complete: bool = False
    received: int = 0
    raw: int = 0
    held: int = 0
    begun: bool = False
    answered: bool = False
    gone: bool = False
    on_gone: Callable[[], None] | None = None
    task: asyncio.Task[None] | None = None
    _body: bytes | bytearray = b""
    _unread: bool = True
    _continued: bool = False
    _chunked: bool = False
    _waiter: asyncio.Future[None] | None = None

    # What the connection tells.

    def take(self, piece: bytes) -> None:
        """Take a piece of the body; once there is an answer the rest is dropped."""
        self.received += len(piece)
        if self.answered:
            self._line.rest()
            return
        if not self._body:
            self._body = piece
        elif isinstance(self._body, bytearray):
            self._body += piece
        else:
            self._body = bytearray(self._body + piece)
        if self.received > _HIGH_WATER_BYTES:
            self._line.hold(self.received - self.held)
            self.held = self.received
            self._line.pause_reading()  # else a fast client is read many times while all others wait
        self.wake()

    def release(self) -> None:
        """Forget the body: nobody will read it, or whoever did has ended."""
        self._line.hold(-self.held)
        self.held, self._body = 0, b""

    def finish_request(self) -> None:
        """Note that the whole request is there."""
        self.complete = True
        self.wake()

    def leave(self) -> None:
        """Note that the client has gone."""
        if self.gone or self.answered:
            return
        self.gone = True
        self.wake()
        if self.on_gone is not None:
            self.on_gone()

    def wake(self) -> None:
        """Let whoever waits for the client look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the application does.

    async def read_body(self, limit: int, idle_seconds: float) -> bytes | bytearray:
        """Return the whole body.

        Raises:
            BodyTooLargeError: more than ``limit`` bytes were announced or came.
            BusyError: the large bodies of all connections are more than may be held at once.
            SlowBodyError: less than ``_SLOWEST_BYTES_PER_SECOND`` came within ``idle_seconds``.
            ClientGoneError: the client left before the end.
        """
        if self.complete and not self.held and self.received <= limit:
            body, self._body = self._body, b""
            return body  # small and whole, as nearly all are
        announced = int(self.headers.get("content-length", "0").lstrip("0")[:20] or "0")
        if announced > limit:
            raise _too_large(limit)
        if announced > _HIGH_WATER_BYTES and self._line.is_crowded_by(announced - self.held):
            raise _crowded()
        loop = asyncio.get_running_loop()
        end, before = loop.time() + idle_seconds, 0
        while not self.complete:
            if self._unread:
                self._unread = False
                if self.expects_continue:
                    self._continued = True
                    self._line.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._line.resume_reading()
            await self._wait(max(0.0, end - loop.time()))
            if self.received > limit:
                raise _too_large(limit)
            if self.held and self._line.is_crowded_by(0):
                raise _crowded()
            if not self.complete and loop.time() >= end:
                if self.received - before < _SLOWEST_BYTES_PER_SECOND * idle_seconds:
                    raise SlowBodyError(f"too little of the body came within {idle_seconds:g} seconds")
                end, before = loop.time() + idle_seconds, self.received
        self._line.resume_reading()
        if self.received > limit:
            raise _too_large(limit)
        body, self._body = self._body, b""
        return body

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole reply. Raises ClientGoneError."""
        said = {**headers}
        if status not in _BODILESS:
            said["content-length"] = str(len(body))
        head = self._render_head(status, said)
        self._line.write(head if self.method == "HEAD" or status in _BODILESS else head + body)
        await self._drain()
        self.answered = True

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of a reply whose pieces follow."""
        said = {**headers}
        self._chunked = self.version == "1.1"
        if self._chunked:
            said["transfer-encoding"] = "chunked"
        else:
            self.reusable = False  # only the connection's end can tell the end of the body
        self._line.write(self._render_head(status, said))

    def write(self, piece: bytes) -> None:
        """Send a piece after ``begin``, without waiting for a slow client."""
        if piece and self.method != "HEAD":
            self._line.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    async def stream(self, piece: bytes) -> None:
        """Send a piece after ``begin`` and wait while the client lags. Raises ClientGoneError."""
        self.write(piece)
        await self._drain()

    async def end(self) -> None:
        """End the pieces properly. Raises ClientGoneError."""
        if self._chunked and self.method != "HEAD":
            self._line.write(b"0\r\n\r\n")
        await self._drain()
        self.answered = True

    def _render_head(self, status: int, headers: dict[str, str]) -> bytes:
        self.begun = True
        # A client that still waits to be asked for its body may send it or not: nobody can tell which.
        unasked = self.expects_continue and not self._continued and not self.complete
        if unasked or headers.get("connection") == "close":
            self.reusable = False
        if not self.reusable:
            headers["connection"] = "close"
        return render_head(status, headers)

    async def _drain(self) -> None:
        """Wait while much is unsent; a client that takes nothing for ``stall_seconds`` is let go."""
        while unsent := self._line.unsent:
            await self._wait(self._line.stall_seconds)
            if self._line.unsent >= unsent:
                self._line.abort()
                raise ClientGoneError
        if self.gone:
            raise ClientGoneError

    async def _wait(self, seconds: float) -> None:
        """Wait until the connection has something to tell, at most so long. Raises ClientGoneError."""
        if not self.gone:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(seconds, self.wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if self.gone:
            raise ClientGoneError


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body is larger than {limit} bytes",
        hint="send fewer texts in a request, or raise serve.max_body_bytes",
    )


def _crowded() -> BusyError:
    return BusyError(
        "other requests' large bodies take the memory that there is for them",
        hint="send it again a little later, or fewer texts in a request",
    )
