"""What runs on the nodes of a cluster: each plans for its own machine, from its own store or a shared one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from llamafile_mgr.bulk.engines import EngineSource, own_engines, plan_alone
from llamafile_mgr.bulk.references import Reference, make_reference
from llamafile_mgr.bulk.vector_sources import EmbedSettings
from llamafile_mgr.catalog import load_catalog
from llamafile_mgr.config import Config
from llamafile_mgr.config_reading import load_config
from llamafile_mgr.downloader import pull, target_of
from llamafile_mgr.embedding.space import fingerprint_space
from llamafile_mgr.errors import NotFoundError, PlanError
from llamafile_mgr.paths import Paths, resolve_paths
from llamafile_mgr.store import Store

#: Measures which settings of a model are fastest here, and tells whether plans have something new in them.
Tune = Callable[[str, Config, Paths], Awaitable[bool]]


@asynccontextmanager
async def node_source(
    model: str,
    settings: EmbedSettings,
    *,
    file: str | None = None,
    exact: bool = False,
    tune: Tune | None = None,
) -> AsyncIterator[EngineSource]:
    """Run this machine's engines of ``model`` while inside; it is pulled when it is not here.

    ``file``: which file of it is pulled, the one that others have. ``exact``: see ``plan_alone``. ``tune``
    is called before, such as ``tune_once``, which takes a minute where nothing is known yet.

    Raises:
        NotFoundError, DownloadError: the model is neither here nor can it be pulled.
        PlanError, NotReadyError: it cannot run here.
    """
    paths = resolve_paths()
    config = load_config(paths.config_file)
    try:
        plan = await asyncio.to_thread(plan_alone, model, config, paths, exact=exact)
    except NotFoundError:
        await pull(
            target_of(file or model, load_catalog()), Store(paths.store), config.download, lambda _: None
        )
        plan = await asyncio.to_thread(plan_alone, model, config, paths, exact=exact)
    if tune is not None and await tune(model, config, paths):
        plan = await asyncio.to_thread(plan_alone, model, config, paths, exact=exact)
    async with own_engines(plan, paths, settings) as source:
        yield source


def predict_space(model: str, config: Config, paths: Paths) -> tuple[str | None, Reference]:
    """Return the vector space that the model has as it lies here, and its golden vectors where there are any.

    The space is None when it does not lie here or cannot run here: another machine may well have it.
    """
    try:
        plan = plan_alone(model, config, paths)
    except (NotFoundError, PlanError):
        return None, make_reference(load_catalog().models.get(model))
    return fingerprint_space(plan), make_reference(plan.model)
