"""What people and monitors look at: the status page, its data, metrics and the OpenAPI document."""

from __future__ import annotations

from functools import partial

from llamafile_mgr.proxy.dialects.ollama import BANNER
from llamafile_mgr.proxy.front import Access, Front, Route
from llamafile_mgr.proxy.http import Reply, Request
from llamafile_mgr.proxy.observing import render_metrics

__all__ = ["page_routes"]

_PUBLIC = Access(public=True)
_ADMIN = Access(admin=True)


def page_routes(front: Front) -> list[Route]:
    """Return the routes for people and monitors."""
    return [
        Route("GET", "/", _root, access=_PUBLIC),
        Route("GET", "/metrics", partial(_metrics, front), access=_ADMIN),
    ]


async def _root(request: Request) -> Reply:
    """Answer programs that probe for Ollama's API."""
    return Reply(200, BANNER.encode(), "text/plain; charset=utf-8")


async def _metrics(front: Front, request: Request) -> Reply:
    return Reply(200, render_metrics(front).encode(), "text/plain; version=0.0.4; charset=utf-8")
