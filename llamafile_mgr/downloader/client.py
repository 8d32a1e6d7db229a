"""The HTTP client of downloads: who is trusted, who gets credentials, how long it waits."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass

import httpx

from llamafile_mgr import __version__
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader.pacing import MOST_JOBS
from llamafile_mgr.downloader.redirects import Reach, check_redirect, origin, reach_of
from llamafile_mgr.downloader.wide_reads import WideTransport
from llamafile_mgr.web_access import make_trust, proxy_for

_CONNECT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class HubAccess:
    """The token of one hub, and the only origin that ever sees it."""

    endpoint: str
    token: str | None

    def headers(self, url: str) -> dict[str, str]:
        """Return the request headers for ``url``: the token only where it belongs."""
        if self.token and origin(url) == origin(self.endpoint):
            return {"Authorization": f"Bearer {self.token}"}
        return {}


class _Routes(httpx.AsyncBaseTransport):
    """Sends each request through the proxy that the environment names for it, or none."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        self._limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._direct = WideTransport(context, connections)
        self._proxied: dict[str, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer. Raises ConfigError for a proxy that cannot be used."""
        proxy = proxy_for(str(request.url))
        if proxy is None:
            return await self._direct.handle_async_request(request)
        if proxy not in self._proxied:
            through = httpx.Proxy(proxy, ssl_context=self._context if proxy.startswith("https:") else None)
            self._proxied[proxy] = httpx.AsyncHTTPTransport(
                verify=self._context, limits=self._limits, proxy=through
            )
        return await self._proxied[proxy].handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in (self._direct, *self._proxied.values()):
            await transport.aclose()


def make_client(config: DownloadConfig) -> httpx.AsyncClient:
    """Return a client that follows no redirect by itself and asks for bytes as they are.

    Raises:
        ConfigError: what the environment says of certificates cannot be used.
    """
    return httpx.AsyncClient(
        follow_redirects=False,
        transport=_Routes(make_trust(), MOST_JOBS + 4),
        headers={"User-Agent": f"llamafile-mgr/{__version__}", "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(config.stall_seconds, connect=_CONNECT_SECONDS, pool=None),
        trust_env=False,
    )


async def addresses_of(url: str) -> list[str]:
    """Resolve the host of ``url``; empty when a proxy does that for us, or nobody can."""
    if proxy_for(url) is not None:
        return []
    _, host, port = origin(url)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(entry[4][0]) for entry in found})


async def reaches_of(url: str) -> tuple[Reach, ...]:
    """Return how private the addresses of a host are that the user named."""
    return tuple({reach_of(address) for address in await addresses_of(url)})


def check_peer(response: httpx.Response, named: tuple[Reach, ...], url: str) -> None:
    """Refuse an answer whose address is more private than what the user named.

    A name may resolve to something else between the check and the connection.

    Raises:
        DownloadError: it is.
    """
    stream = response.extensions.get("network_stream")
    peer = stream.get_extra_info("server_addr") if stream is not None else None
    if isinstance(peer, tuple) and proxy_for(url) is None:
        check_redirect(named, url, [str(peer[0])])
