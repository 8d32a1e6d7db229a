"""Where the commands that embed get their vectors: a running ``serve``, or engines of their own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from llamafile_mgr.cli.context import Context

if TYPE_CHECKING:
    from llamafile_mgr.bulk import EmbedSettings, VectorSource
    from llamafile_mgr.config import Config
    from llamafile_mgr.planner.plans import Plan

__all__ = ["Wish", "connect", "plan_alone", "plan_embedder", "started_serve"]

_STATUS_SECONDS, _STOP_SECONDS = 10.0, 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What the command line says. ``model`` None: the one that is served or configured. ``own``: start
    engines, whatever runs. ``exact``: they compute one text at a time on a GPU too, where that is slow."""

    model: str | None = None
    url: str | None = None
    api_key: str | None = None
    own: bool = False
    exact: bool = False


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
    return _run_engines(context, plan_alone(context, wish), settings)


def _find_serve(context: Context, model: str | None) -> str | None:
    """Return the URL of a running ``serve`` of this user that embeds with ``model``, or with any for None."""
    from llamafile_mgr.catalog import Role
    from llamafile_mgr.errors import Error
    from llamafile_mgr.supervisor.control import find_sockets, send_command

    for _, socket in find_sockets(context.paths.runtime):
        try:
            status = next(send_command(socket, {"command": "status"}, seconds=_STATUS_SECONDS), None)
        except Error:
            continue  # it ends just now, or hangs: we can do without it
        served = {each["model"] for each in (status or {})["models"] if each["role"] == Role.EMBED.value}
        if status is not None and served and (model is None or model in served):
            return str(status["url"])
    return None


def plan_alone(context: Context, wish: Wish) -> Plan:
    """Return the plan of an embedding model whose engines compute one text after the other, so that equal
    texts get equal bytes. On a GPU, which is idle most of the time then, only when that is wished for."""
    from llamafile_mgr.config import ModelConfig

    config = context.load_config()
    plan = _plan(context, wish.model, config)
    on_gpu = plan.settings.gpu not in (None, "disable")
    if plan.settings.slots == 1 or (on_gpu and not wish.exact):
        return plan
    own = dataclasses.replace(config.models.get(plan.name, ModelConfig()), slots=1)
    alone = dataclasses.replace(config, models={**config.models, plan.name: own})
    return _plan(context, wish.model, alone)


def plan_embedder(context: Context, model: str) -> Plan:
    """Return the plan of an embedding model as ``serve`` would run it."""
    return _plan(context, model, context.load_config())


def _plan(context: Context, model: str | None, config: Config) -> Plan:
    from llamafile_mgr.proxy.assembly import make_plans, wanted_models

    (plan,) = make_plans(wanted_models((), model or config.serve.embed, None), config, context.paths)
    return plan


@asynccontextmanager
async def _run_engines(context: Context, plan: Plan, settings: EmbedSettings) -> AsyncIterator[VectorSource]:
    from llamafile_mgr.bulk import own_engines
    from llamafile_mgr.proxy.assembly import hold_files

    with hold_files([plan], context.paths):
        async with own_engines(plan, context.paths, settings) as source:
            yield source


@asynccontextmanager
async def started_serve(context: Context, model: str) -> AsyncIterator[str]:
    """Run a ``serve`` of one embedding model as a child process while inside, and give its URL.

    Raises:
        EngineStartError: it ended before it was ready.
    """
    from llamafile_mgr.errors import EngineStartError

    config = ("--config", str(context.config_file)) if context.config_file is not None else ()
    arguments = ("serve", "--embed", model, "--port", "0", "--no-cache", "--json")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llamafile_mgr", *config, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None  # noqa: S101
    assert child.stderr is not None  # noqa: S101
    said = asyncio.create_task(child.stderr.read())
    try:
        async for line in child.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                break
        else:
            last = (await said).decode(errors="replace").strip().splitlines()[-3:]
            raise EngineStartError(f"serve ended before {model} was ready", cause=" / ".join(last) or None)
        yield str(event["url"])
    finally:
        if child.returncode is None:
            child.terminate()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(child.wait(), _STOP_SECONDS)
        if child.returncode is None:
            child.kill()
        await asyncio.gather(child.wait(), said)
