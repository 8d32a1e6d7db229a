"""Which hosts and origins may talk to us: against DNS rebinding and against pages of other sites. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from llamafile_mgr.proxy.api_errors import ForeignHostError, ForeignOriginError

_ALLOWED_METHODS = "GET, POST, OPTIONS"
_EXPOSED = (
    "x-model, x-model-substituted-for, x-request-id, x-tokens-estimated, x-truncated, x-vector-space, "
    "retry-after"
)
_PREFLIGHT_SECONDS = "600"


@dataclass(frozen=True, slots=True)
class Guard:
    """``hosts``: names that a Host header may carry besides loopback's own; ``origins``: whose pages may
    call us, ``scheme://name[:port]`` each."""

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def check(self, headers: Mapping[str, str], scheme: str) -> dict[str, str]:
        """Return the CORS headers for this request's origin; none for our own page and for programs.

        Programs send no Origin; Node's fetch does send Sec-Fetch headers, so those tell nothing.

        Raises:
            ForeignHostError: a Host that is not ours.
            ForeignOriginError: a page of another origin.
        """
        host = headers.get("host", "")
        if not _names_us(host, self.hosts):
            raise ForeignHostError(f"this proxy does not answer for the host {host[:100]!r}")
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
def _names_us(authority: str, hosts: frozenset[str]) -> bool:
    """Tell whether ``authority`` is a loopback address or one of ``hosts``, with any port."""
    name = authority.lower()
    if not name.endswith("]"):
        name, colon, port = name.rpartition(":") if ":" in name else (name, "", "")
        if colon and not port.isdigit():
            return False
    name = name.removeprefix("[").removesuffix("]")
    if name == "localhost" or name in hosts:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
