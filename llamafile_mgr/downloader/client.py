"""The HTTP client of downloads: who is trusted, who gets credentials, how long it waits."""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.parse
import urllib.request
from dataclasses import dataclass

import httpx

from llamafile_mgr import __version__
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader.pacing import MOST_JOBS
from llamafile_mgr.downloader.redirects import Reach, check_redirect, origin, reach_of
from llamafile_mgr.downloader.wide_reads import WideTransport

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


def make_client(config: DownloadConfig) -> httpx.AsyncClient:
    """Return a client that follows no redirect by itself and asks for bytes as they are."""
    context, connections = _ssl_context(), MOST_JOBS + 4
    proxied = bool(urllib.request.getproxies())
    return httpx.AsyncClient(
        follow_redirects=False,
        verify=context,
        transport=None if proxied else WideTransport(context, connections),
        headers={"User-Agent": f"llamafile-mgr/{__version__}", "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(config.stall_seconds, connect=_CONNECT_SECONDS, pool=None),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
    )


def _ssl_context() -> ssl.SSLContext:
    """Trust what this system trusts (a company's own authority too) and certifi's list."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def is_proxied(url: str) -> bool:
    """Tell whether the environment sends requests for ``url`` through a proxy."""
    parts = urllib.parse.urlsplit(url)
    proxies = urllib.request.getproxies()
    if not (proxies.get(parts.scheme) or proxies.get("all")):
        return False
    return not urllib.request.proxy_bypass(parts.hostname or "")


async def addresses_of(url: str) -> list[str]:
    """Resolve the host of ``url``; empty when a proxy does that for us, or nobody can."""
    if is_proxied(url):
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
    if isinstance(peer, tuple) and not is_proxied(url):
        check_redirect(named, url, [str(peer[0])])
