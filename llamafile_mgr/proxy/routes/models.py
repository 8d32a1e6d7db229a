"""What is served and how it fares: lists of models in every dialect, health and readiness."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.catalog import Role
from llamafile_mgr.errors import NotReadyError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.proxy.dialects import ollama, tei
from llamafile_mgr.proxy.dialects.errors import Dialect
from llamafile_mgr.proxy.dialects.fields import read_text
from llamafile_mgr.proxy.front import Access, Front, Handler, Route
from llamafile_mgr.proxy.http import Drip, Reply, Request, json_reply
from llamafile_mgr.proxy.refusals import UnknownModelError, UnsupportedError
from llamafile_mgr.proxy.status import render_models, render_props, render_ready

__all__ = ["model_routes"]

_PUBLIC = Access(public=True)


def model_routes(front: Front) -> list[Route]:
    """Return the routes that tell of models."""
    health = _answering(lambda: {"status": "ok", "version": __version__})
    ready, models = partial(_ready, front), partial(_models, front)
    return [
        Route("GET", "/health", health, access=_PUBLIC),
        Route("GET", "/v1/health", health, access=_PUBLIC),
        Route("GET", "/ready", ready, access=_PUBLIC),
        Route("GET", "/v1/models", models),
        Route("GET", "/models", models),
        Route("GET", "/v1/models/{name}", partial(_model, front)),
        Route("GET", "/props", partial(_props, front)),
        Route("GET", "/info", partial(_info, front), Dialect.TEI),
        Route("GET", "/api/version", _answering(lambda: {"version": ollama.API_LEVEL}), Dialect.OLLAMA),
        Route("GET", "/api/tags", _answering(lambda: ollama.render_tags(_entries(front))), Dialect.OLLAMA),
        Route(
            "GET", "/api/ps", _answering(lambda: ollama.render_running(_ready_entries(front))), Dialect.OLLAMA
        ),
        Route("POST", "/api/show", partial(_show, front), Dialect.OLLAMA),
        Route("POST", "/api/pull", partial(_pull, front), Dialect.OLLAMA),
    ]


def _answering(make: Callable[[], Any]) -> Handler:
    async def answer(request: Request) -> Reply:
        return json_reply(make())

    return answer


async def _ready(front: Front, request: Request) -> Reply:
    ready, body = render_ready([pool.snapshot() for pool in front.pools])
    return json_reply(body, status=200 if ready else NotReadyError.http_status)


def _model_list(front: Front) -> dict[str, Any]:
    spaces = {name: embedder.vector_space for name, embedder in front.embedders.items()}
    return render_models(front.pools, spaces, int(front.started))


async def _models(front: Front, request: Request) -> Reply:
    return json_reply(_model_list(front))


async def _model(front: Front, request: Request) -> Reply:
    name = request.path.removeprefix("/v1/models/")
    pool = front.router.find(name)
    for entry in _model_list(front)["data"]:
        if pool is not None and entry["id"] == pool.plan.name:
            return json_reply(entry)
    raise UnknownModelError(f"no model {name[:200]!r} is served")


async def _props(front: Front, request: Request) -> Reply:
    role = Role.GENERATE if any(p.plan.role is Role.GENERATE for p in front.pools) else Role.EMBED
    choice = front.choose(role, None, request, Drip.NONE)
    return json_reply(render_props(choice.pool.plan), headers=choice.headers())


async def _info(front: Front, request: Request) -> Reply:
    choice = front.choose(Role.EMBED, None, request, Drip.NONE)
    return json_reply(tei.render_info(choice.pool.plan), headers=choice.headers())


def _entry(plan: Plan) -> tuple[Plan, int, float]:
    try:
        status = plan.path.stat()
    except OSError:
        return plan, 0, 0.0
    return plan, status.st_size, status.st_mtime


def _entries(front: Front) -> list[tuple[Plan, int, float]]:
    return [_entry(pool.plan) for pool in front.pools]


def _ready_entries(front: Front) -> list[tuple[Plan, int, float]]:
    return [_entry(pool.plan) for pool in front.pools if pool.ready]


async def _show(front: Front, request: Request) -> Reply:
    body = request.json_object()
    name = read_text(body, "model", body.get("name"))
    pool = front.router.find(name)
    if pool is None:
        raise UnknownModelError(f"model {name[:200]!r} not found")
    return json_reply(ollama.render_show(*_entry(pool.plan)))


async def _pull(front: Front, request: Request) -> Reply:
    """Say that a served model is here; nothing is ever fetched because a request asks for it."""
    body = request.json_object()
    name = read_text(body, "model", body.get("name"))
    if front.router.find(name) is None:
        raise UnsupportedError(
            "models are not fetched over HTTP", hint=f"run `llamafile-mgr pull` and serve {name[:200]!r}"
        )
    reply = json_reply({"status": "success"})
    return Reply(200, reply.body + b"\n", "application/x-ndjson")
