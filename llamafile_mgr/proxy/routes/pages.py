"""What people and monitors look at: the status page, its data, metrics, health and readiness."""

from __future__ import annotations

from functools import cache, partial
from importlib import resources

from llamafile_mgr import __version__
from llamafile_mgr.errors import NotReadyError
from llamafile_mgr.proxy.dialects.dialect import Route
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.http import Reply, Request, json_reply
from llamafile_mgr.proxy.observing import describe_readiness, describe_status, render_metrics

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


async def _root(front: Front, request: Request) -> Reply:
    """Show browsers the page; answer programs that probe for a dialect."""
    if "text/html" in request.headers.get("accept", ""):
        return await _file("index.html", front, request)
    banner = next((each.banner for each in front.dialects if each.banner), "llamafile-mgr")
    return Reply(200, banner.encode(), "text/plain; charset=utf-8", {"vary": "Accept"})


async def _file(name: str, front: Front, request: Request) -> Reply:
    return Reply(200, _read_file(name), _FILES[name], {**_PAGE_HEADERS, "vary": "Accept"})


@cache
def _read_file(name: str) -> bytes:
    return resources.files("llamafile_mgr.proxy").joinpath("page", name).read_bytes()


async def _status(front: Front, request: Request) -> Reply:
    return json_reply(await describe_status(front), headers={"cache-control": "no-store"})


async def _metrics(front: Front, request: Request) -> Reply:
    return Reply(200, (await render_metrics(front)).encode(), "text/plain; version=0.0.4; charset=utf-8")


async def _health(front: Front, request: Request) -> Reply:
    return json_reply({"status": "ok", "version": __version__})


async def _ready(front: Front, request: Request) -> Reply:
    ready, body = describe_readiness(front)
    if not request.trusted:  # which models there are is nothing for strangers
        del body["models"]
    return json_reply(body, status=200 if ready else NotReadyError.http_status)


PAGE_ROUTES = (
    Route("GET", "/", _root, public=True),
    Route("GET", "/ui/page.css", partial(_file, "page.css"), public=True),
    Route("GET", "/ui/page.js", partial(_file, "page.js"), public=True),
    Route("GET", "/ui/status.json", _status, admin=True),
    Route("GET", "/metrics", _metrics, admin=True),
    Route("GET", "/health", _health, public=True),
    Route("GET", "/v1/health", _health, public=True),
    Route("GET", "/ready", _ready, public=True),
)
