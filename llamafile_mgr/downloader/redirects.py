"""Where a redirect may lead. No network: resolved addresses come in as values."""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Sequence
from enum import IntEnum

from llamafile_mgr.downloader.hub_sources import check_url
from llamafile_mgr.errors import DownloadError, UsageError

_METADATA = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))


class Reach(IntEnum):
    """How private an address is: only what the user named may lead to anything but ``PUBLIC``."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    FORBIDDEN = 3


def reach_of(address: str) -> Reach:
    """Classify one IP address; link-local ones (cloud metadata) and those of no host are forbidden."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return Reach.LOOPBACK
    if any(ip.version == network.version and ip in network for network in _METADATA):
        return Reach.FORBIDDEN
    if ip.is_multicast or ip.is_unspecified:
        return Reach.FORBIDDEN
    return Reach.PUBLIC if ip.is_global else Reach.PRIVATE


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port: what credentials are bound to."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), port


def check_redirect(named: Sequence[Reach], target: str, addresses: Sequence[str]) -> None:
    """Refuse a redirect to ``target`` unless its addresses are public or as private as the named host.

    ``named``: of the host that the user wrote. ``addresses``: what the target's host resolves to.

    Raises:
        DownloadError: it leads to plain http, to a file of this computer, or into a private network.
    """
    try:
        check_url(target)
    except UsageError as error:
        raise DownloadError(
            f"the server redirects to {target}, which is refused",
            cause=error.message,
            hint="name that address yourself if you trust it",
        ) from error
    for address in addresses:
        reach = reach_of(address)
        if reach is Reach.PUBLIC or (reach is not Reach.FORBIDDEN and reach in named):
            continue
        raise DownloadError(
            f"the server redirects to {target}, which is refused",
            cause=f"{address} is not an address of the public internet",
            hint="name that address yourself if you trust it",
        )
