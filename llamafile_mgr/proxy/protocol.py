"""uvicorn's HTTP protocol with limits that it lacks: a slow or a huge request head ends the connection."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["protocol_class"]

#: All of a request's head; browsers with many cookies stay far below.
_MAX_HEAD_BYTES = 64 * 1024


def protocol_class(header_seconds: float, idle_seconds: float) -> type[HttpToolsProtocol]:
    """Return the protocol for connections whose clients may take so long for a request's head.

    ``idle_seconds``: until its first byte; uvicorn itself ends connections that idle after an answer.
    """

    class LimitedProtocol(HttpToolsProtocol):
        """One connection."""

        _timer: asyncio.TimerHandle | None = None
        _in_head = True
        _head_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(idle_seconds, self._refuse, b"408 Request Timeout")

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_head:
                if self._head_bytes == 0:
                    self._stop_timer()
                    self._timer = self.loop.call_later(header_seconds, self._refuse, b"408 Request Timeout")
                self._head_bytes += len(data)
            super().data_received(data)
            if self._in_head and self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large")

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._head_bytes = 0
            self._stop_timer()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_head = True
            super().on_message_complete()

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _refuse(self, status: bytes) -> None:
            self._stop_timer()
            if self.transport is not None and not self.transport.is_closing():
                self.transport.write(
                    b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                )
                self.transport.close()

    return LimitedProtocol
