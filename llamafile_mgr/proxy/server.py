"""The HTTP server: listening sockets, TLS, and an end that lets answers finish."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

from llamafile_mgr.config import ServeConfig
from llamafile_mgr.errors import ConfigError
from llamafile_mgr.proxy.connection import Connection, Connections
from llamafile_mgr.proxy.exchange import Exchange
from llamafile_mgr.proxy.listening import most_connections

_BACKLOG = 2048
#: After the time for answers is over, for what is cancelled to end.
_LAST_SECONDS = 1.0


class HttpServer:
    """Serves ``answer`` on sockets that are bound already.

    Raises:
        ConfigError: the certificate or its key cannot be used.
    """

    def __init__(self, answer: Callable[[Exchange], Awaitable[None]], settings: ServeConfig) -> None:
        self._tls = _load_tls(settings)
        secure = self._tls is not None
        self._shared = Connections(
            answer,
            settings.header_seconds,
            settings.idle_seconds,
            secure,
            most_connections(settings.max_connections),
            2 * settings.max_body_bytes,
        )
        self._servers: list[asyncio.Server] = []

    def load_certificate(self, settings: ServeConfig) -> None:
        """Show clients that come from now on this certificate, which may be a renewed one. Blocks.

        Raises:
            ConfigError: the certificate or its key cannot be used; the one before goes on.
        """
        if self._tls is not None and _load_tls(settings) is not None:
            _load_chain(self._tls, settings)

    def apply(self, settings: ServeConfig) -> None:
        """Take the limits of these settings; what is in progress may end under those before."""
        shared = self._shared
        shared.header_seconds, shared.idle_seconds = settings.header_seconds, settings.idle_seconds
        shared.most, shared.most_held = (
            most_connections(settings.max_connections),
            2 * settings.max_body_bytes,
        )

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Begin to answer on ``sockets``."""
        loop = asyncio.get_running_loop()
        patience = self._shared.header_seconds if self._shared.secure else None
        for each in sockets:
            server = await loop.create_server(
                lambda: Connection(self._shared),
                sock=each,
                ssl=self._tls,
                backlog=_BACKLOG,
                ssl_handshake_timeout=patience,
            )
            self._servers.append(server)

    async def stop(self, seconds: float) -> None:
        """Take no new requests and end when the present ones are answered, after ``seconds`` anyhow.

        Cancelling it, as a second signal does, breaks them off at once.
        """
        self._shared.draining = True
        for server in self._servers:
            server.close()
        for connection in [*self._shared.open]:
            connection.drain()
        try:
            if self._shared.tasks:
                await asyncio.wait(self._shared.tasks, timeout=seconds)
            await asyncio.sleep(0)
        finally:
            await self._break_off()

    async def _break_off(self) -> None:
        for task in self._shared.tasks:
            task.cancel()
        if self._shared.tasks:
            await asyncio.wait(self._shared.tasks, timeout=_LAST_SECONDS)
        for connection in [*self._shared.open]:
            connection.abort()


def _load_tls(settings: ServeConfig) -> ssl.SSLContext | None:
    if settings.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_chain(context, settings)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load_chain(context: ssl.SSLContext, settings: ServeConfig) -> None:
    try:
        context.load_cert_chain(settings.tls_certificate or "", settings.tls_key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"cannot use the certificate {settings.tls_certificate} with its key: {error}",
            hint="both must be PEM files that belong together",
        ) from error
