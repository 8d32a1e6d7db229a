"""Where the commands that embed get their vectors: a running ``serve``, or engines of their own."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llamafile_mgr.cli.context import Context

if TYPE_CHECKING:
    from llamafile_mgr.bulk import EmbedSettings, VectorSource


@dataclasses.dataclass(frozen=True, slots=True)
class SourceOverrides:
    """What the command line says. ``model`` None: the one that is served or configured. ``own``: start
    engines, whatever runs. ``exact``: they compute one text at a time on a GPU too, where that is slow.
    ``remotes``: those of the settings take part."""

    model: str | None = None
    url: str | None = None
    api_key: str | None = None
    own: bool = False
    exact: bool = False
    remotes: bool = True


def connect(
    context: Context,
    overrides: SourceOverrides,
    settings: EmbedSettings,
    say: Callable[[str], None] = lambda _: None,
) -> AbstractAsyncContextManager[VectorSource]:
    """Return a source of vectors, to be entered: the proxy at a given URL, the running ``serve`` when it
    has the model, else engines that live as long as it is in use. ``say`` is told which.

    Raises:
        UsageError: no model is named and none is served or configured.
        NotFoundError, PlanError: the model is not here or cannot run here.
    """
    from llamafile_mgr.bulk import own_engines, plan_alone, running_proxy

    if overrides.url is not None:
        say(f"asking {overrides.url}")
        return running_proxy(overrides.url, settings, model=overrides.model, api_key=overrides.api_key)
    found = None if overrides.own else _find_serve(context, overrides.model)
    if found is not None:
        url, socket = found
        say(f"asking the running serve, {url}")
        return _join(socket, overrides.model, settings)
    config = context.load_config()
    plan = plan_alone(
        overrides.model, config, context.paths, exact=overrides.exact, remotes=overrides.remotes
    )
    say(f"starting {plan.name}")
    return own_engines(plan, context.paths, settings)


def _find_serve(context: Context, model: str | None) -> tuple[str, Path] | None:
    """Return address and socket of a running ``serve`` that embeds with ``model``, or with any for None."""
    from llamafile_mgr.endpoints.joining import running_services

    for _, socket, status in running_services(context.paths):
        served = {each["model"] for each in status["models"] if each["role"] == "embed"}
        if served and (model is None or model in served):
            return str(status["url"]), socket
    return None


@asynccontextmanager
async def _join(socket: Path, model: str | None, settings: EmbedSettings) -> AsyncIterator[VectorSource]:
    """Use a running ``serve``, which does not end before we do."""
    from llamafile_mgr.bulk import running_proxy
    from llamafile_mgr.endpoints.leasing import Lease

    lease = await asyncio.to_thread(Lease.take, socket, {})
    try:
        access = await asyncio.to_thread(lease.await_ready, lambda _: None)
        async with running_proxy(access.url, settings, model=model, api_key=access.api_key) as source:
            yield source
    finally:
        lease.close()


def name_model(context: Context, model: str | None) -> str:
    """Return the model as other machines know it: a file's whole path, else the name; for None the first of
    the settings.

    Raises:
        UsageError: no model is named and none is configured.
    """
    from llamafile_mgr.launching.wanted import anchor_name, read_embedder
    from llamafile_mgr.store import Store

    [wanted] = read_embedder(context.load_config().serve, model).models
    return anchor_name(wanted.name, Store(context.paths.store))
