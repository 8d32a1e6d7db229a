"""Which hosts and origins may talk to us: against DNS rebinding and against pages of other sites. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from llamafile_mgr.addresses import read_host, read_origin
from llamafile_mgr.config import ServeConfig
from llamafile_mgr.errors import RequestError
from llamafile_mgr.proxy.api_errors import BadHostError, ForeignHostError, ForeignOriginError

_ALLOWED_METHODS = "GET, POST, OPTIONS"
_EXPOSED = (
    "x-model, x-model-substituted-for, x-request-id, x-tokens-estimated, x-truncated, x-vector-space, "
    "retry-after"
)
_PREFLIGHT_SECONDS = "600"
#: Host as RFC 9110, 7.2 writes it; two of them, joined, are none.
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[\w.~!$&'()*+,;=%-]+)(?::([0-9]{0,5}))?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Guard:
    """``hosts``: names that a Host header may carry besides loopback's own, as ``read_host`` gives them;
    ``origins``: whose pages may call us, as ``read_origin`` does."""

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: ServeConfig) -> Guard:
        """Return the guard that the settings ask for."""
        return cls(
            frozenset(map(read_host, settings.hosts)), frozenset(map(read_origin, settings.cors_origins))
        )

    def check(self, headers: Mapping[str, str], scheme: str, authority: str | None = None) -> dict[str, str]:
        """Return the CORS headers for this request's origin; none for our own page and for programs.

        ``authority``: that of the request's target, where it has one, which counts instead of its Host (RFC
        9112, 3.2.2). HTTP/1.0 needs neither, and no browser speaks it. Programs send no Origin; Node's fetch
        does send Sec-Fetch headers, so those tell nothing.

        Raises:
            BadHostError: a Host that is none.
            ForeignHostError: a Host that is not ours.
            ForeignOriginError: a page of another origin.
        """
        host, refusal = headers.get("host"), None
        if host is not None:
            refusal = _judge_host(host, self.hosts, scheme)
        if authority is not None and refusal is not BadHostError:
            host, refusal = authority, _judge_host(authority, self.hosts, scheme)
        if refusal is not None:
            raise refusal(f"this proxy does not answer for the host {(host or '')[:100]!r}")
        origin = headers.get("origin")
        if origin is None or origin.lower() == f"{scheme}://{host}".lower():
            return {}
        if origin.lower() in self.origins:
            return {
                "access-control-allow-origin": origin,
                "access-control-expose-headers": _EXPOSED,
                "vary": "Origin",
            }
        raise ForeignOriginError(
            f"this proxy does not answer pages of {origin[:100]!r}",
            hint="the operator can allow an origin with serve.cors_origins",
        )

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return further headers for the answer to OPTIONS: what the page asks for, if well-formed."""
        wanted = headers.get("access-control-request-headers", "")
        safe = all(c.isalnum() or c in "-_, " for c in wanted) and len(wanted) < 2000
        return {
            "access-control-allow-methods": _ALLOWED_METHODS,
            "access-control-allow-headers": wanted if safe else "",
            "access-control-max-age": _PREFLIGHT_SECONDS,
        }


@lru_cache(maxsize=256)
def _judge_host(authority: str, hosts: frozenset[str], scheme: str) -> type[RequestError] | None:
    """Return None when ``authority`` is a loopback address or one of ``hosts``, with any port unless these
    name one; else why."""
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or int(parts[2] or 0) > 65535:
        return BadHostError
    name, port = parts[1].lower(), int(parts[2] or (443 if scheme == "https" else 80))
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        if name.startswith("["):
            return BadHostError
        ours = name == "localhost"
    else:
        ours = address.is_loopback
        name = str(address)
    with_port = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return None if ours or name in hosts or with_port in hosts else ForeignHostError
