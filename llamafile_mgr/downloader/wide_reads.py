"""HTTP with wide reads: what httpx does by itself, in a quarter of the steps.

httpcore asks for 64 kB at a time, and every step through httpx, httpcore, h11 and anyio costs the
same whatever it carries; a download of many gigabytes is bound by them. Only the size of a read is
changed here. Through a proxy httpx's own transport is used.
"""

from __future__ import annotations

import ssl
from typing import Any

import httpcore
import httpx

_READ_BYTES = 256 * 1024


class _WideStream(httpcore.AsyncNetworkStream):
    """A connection that takes what the kernel has, up to ``_READ_BYTES``."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._inner.read(max(max_bytes, _READ_BYTES), timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    async def start_tls(self, *arguments: Any, **named: Any) -> httpcore.AsyncNetworkStream:
        return _WideStream(await self._inner.start_tls(*arguments, **named))


class _WideBackend(httpcore.AnyIOBackend):
    """Opens connections as httpcore does, and widens them."""

    async def connect_tcp(self, *arguments: Any, **named: Any) -> httpcore.AsyncNetworkStream:
        return _WideStream(await super().connect_tcp(*arguments, **named))


class WideTransport(httpx.AsyncHTTPTransport):
    """httpx's transport over a pool of such connections."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        super().__init__(verify=context)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=30.0,
            network_backend=_WideBackend(),
        )
