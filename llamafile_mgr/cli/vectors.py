"""Where the commands that embed get their vectors: a running ``serve``, or engines of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from llamafile_mgr.cli.context import Context

if TYPE_CHECKING:
    from llamafile_mgr.bulk import EmbedSettings, VectorSource
    from llamafile_mgr.planner.plans import Plan

__all__ = ["Wish", "connect", "plan_alone"]

_STATUS_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What the command line says. ``model`` None: the one that is served or configured. ``own``: start
    engines, whatever runs."""

    model: str | None = None
    url: str | None = None
    api_key: str | None = None
    own: bool = False


def connect(
    context: Context, wish: Wish, settings: EmbedSettings
) -> AbstractAsyncContextManager[VectorSource]:
    """Return a source of vectors, to be entered: the proxy at the wish's URL, the running ``serve`` when it
    has the model, else engines that live as long as it is in use.

    Raises:
        UsageError: no model is named and none is served or configured.
        NotFoundError, PlanError: the model is not here or cannot run here.
    """
    from llamafile_mgr.bulk import running_proxy

    url = wish.url or (None if wish.own else _find_serve(context, wish.model))
    if url is not None:
        return running_proxy(url, settings, model=wish.model, api_key=wish.api_key)
    return _run_engines(context, plan_alone(context, wish.model), settings)


def _find_serve(context: Context, model: str | None) -> str | None:
    """Return the URL of a running ``serve`` of this user that embeds with ``model``, or with any for None."""
    from llamafile_mgr.catalog import Role
    from llamafile_mgr.errors import Error
    from llamafile_mgr.supervisor.asking import find_sockets, send_command

    for _, socket in find_sockets(context.paths.runtime):
        try:
            status = next(send_command(socket, {"command": "status"}, seconds=_STATUS_SECONDS), None)
        except Error:
            continue  # it ends just now, or hangs: we can do without it
        served = {each["model"] for each in (status or {})["models"] if each["role"] == Role.EMBED.value}
        if status is not None and served and (model is None or model in served):
            return str(status["url"])
    return None


def plan_alone(context: Context, model: str | None) -> Plan:
    """Return the plan of an embedding model whose engines compute one text after the other, which makes equal
    texts get equal bytes."""
    from llamafile_mgr.catalog import Role
    from llamafile_mgr.config import ModelConfig
    from llamafile_mgr.proxy.assembly import make_plans, wanted_models

    config = context.load_config()
    wanted = wanted_models((), model or config.serve.embed, None)
    (plan,) = make_plans(wanted, config, context.paths)
    if plan.settings.slots == 1 or plan.role is not Role.EMBED:
        return plan
    own = dataclasses.replace(config.models.get(plan.name, ModelConfig()), slots=1)
    alone = dataclasses.replace(config, models={**config.models, plan.name: own})
    return make_plans(wanted, alone, context.paths)[0]


@asynccontextmanager
async def _run_engines(context: Context, plan: Plan, settings: EmbedSettings) -> AsyncIterator[VectorSource]:
    from llamafile_mgr.bulk import own_engines
    from llamafile_mgr.proxy.assembly import hold_files

    with hold_files([plan], context.paths):
        async with own_engines(plan, context.paths, settings) as source:
            yield source
