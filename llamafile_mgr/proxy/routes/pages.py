"""What people and monitors look at: the status page, its data, metrics and the OpenAPI document."""

from __future__ import annotations

from functools import cache, partial
from importlib import resources

from llamafile_mgr.proxy.dialects.ollama import BANNER
from llamafile_mgr.proxy.front import Access, Front, Route
from llamafile_mgr.proxy.http import Reply, Request, json_reply
from llamafile_mgr.proxy.observing import describe_status, render_metrics

__all__ = ["page_routes"]

_PUBLIC = Access(public=True)
_ADMIN = Access(admin=True)
_FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
#: The page loads nothing from elsewhere, runs no inline code and cannot be framed.
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


def page_routes(front: Front) -> list[Route]:
    """Return the routes for people and monitors."""
    return [
        Route("GET", "/", _root, access=_PUBLIC),
        Route("GET", "/ui/page.css", partial(_file, "page.css"), access=_PUBLIC),
        Route("GET", "/ui/page.js", partial(_file, "page.js"), access=_PUBLIC),
        Route("GET", "/ui/status.json", partial(_status, front), access=_ADMIN),
        Route("GET", "/metrics", partial(_metrics, front), access=_ADMIN),
    ]


async def _root(request: Request) -> Reply:
    """Show browsers the page; answer programs that probe for Ollama's API."""
    if "text/html" in request.headers.get("accept", ""):
        return await _file("index.html", request)
    return Reply(200, BANNER.encode(), "text/plain; charset=utf-8", {"vary": "Accept"})


async def _file(name: str, request: Request) -> Reply:
    return Reply(200, _read_file(name), _FILES[name], {**_PAGE_HEADERS, "vary": "Accept"})


@cache
def _read_file(name: str) -> bytes:
    return resources.files("llamafile_mgr.proxy").joinpath("page", name).read_bytes()


async def _status(front: Front, request: Request) -> Reply:
    return json_reply(await describe_status(front), headers={"cache-control": "no-store"})


async def _metrics(front: Front, request: Request) -> Reply:
    return Reply(200, (await render_metrics(front)).encode(), "text/plain; version=0.0.4; charset=utf-8")
