"""What runs on the nodes of a cluster: each plans for its own machine, from its own store or a shared one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.vectors import Wish, plan_alone, run_engines

if TYPE_CHECKING:
    from llamafile_mgr.bulk import EmbedSettings, VectorSource
    from llamafile_mgr.planner.plans import Plan

__all__ = ["node_source"]


@asynccontextmanager
async def node_source(wish: Wish, settings: EmbedSettings) -> AsyncIterator[VectorSource]:
    """Run this machine's engines of the wish's model while inside; the model is pulled when it is not here.

    Raises:
        NotFoundError, DownloadError: the model is neither here nor can it be pulled.
        PlanError, NotReadyError: it cannot run here.
    """
    context = Context(None, debug=False)
    plan = await _plan(context, wish)
    async with run_engines(context, plan, settings) as source:
        yield source


async def _plan(context: Context, wish: Wish) -> Plan:
    from llamafile_mgr.catalog import load_catalog
    from llamafile_mgr.downloader import pull, target_of
    from llamafile_mgr.errors import NotFoundError
    from llamafile_mgr.store import Store

    try:
        return await asyncio.to_thread(plan_alone, context, wish)
    except NotFoundError:
        if wish.model is None:
            raise
    target = target_of(wish.model, load_catalog())
    await pull(target, Store(context.paths.store), context.load_config().download, lambda _: None)
    return await asyncio.to_thread(plan_alone, context, wish)
