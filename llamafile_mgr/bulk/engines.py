"""Engines of this process as a source of vectors: nobody else asks them, and no proxy stands between.

With one slot an engine computes one text after the other, and a text's vector has the same bits whatever was
computed before it. Measured on the embedded engine: among 120 texts of mixed length, alone, in batches of 8
and 32, shuffled and from several callers, not a bit differed; with 4 slots 100 of 120 vectors did, by up to
0.0002. The rate was the same (MiniLM, two cores: 37 texts/s with 1, 2, 4 and 8 slots).
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.bulk.text_records import Failure, TextResult
from llamafile_mgr.bulk.vector_sources import EmbedSettings
from llamafile_mgr.config import Config, ModelConfig
from llamafile_mgr.embedding.checked_engines import running_pools
from llamafile_mgr.embedding.embedder import Embedder
from llamafile_mgr.embedding.requests import EmbedRequest, InputType
from llamafile_mgr.launching.local_plans import hold_files, make_plans
from llamafile_mgr.launching.wanted import read_embedder
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.planner.remotes import without_remotes

#: A model of many gigabytes loads for minutes.
_READY_SECONDS = 1800.0
_CALL_SECONDS = 3600.0


class EngineSource:
    """Vectors from one pool."""

    def __init__(self, embedder: Embedder, settings: EmbedSettings) -> None:
        self._embedder = embedder
        self._settings = settings
        plan = embedder.pool.plan
        self.model = plan.name
        self.vector_space = embedder.vector_space
        self.dimensions = settings.dimensions or plan.dimensions
        self.exact = plan.settings.slots == 1 and not plan.remotes
        self.quantisation = plan.quantisation

    async def embed(self, texts: Sequence[str]) -> list[TextResult]:
        """Return one result per text. Raises what ``VectorSource`` says."""
        settings = self._settings
        result = await self._embedder.embed(
            EmbedRequest(
                tuple(texts),
                input_type=settings.input_type,
                task=settings.task,
                truncation=settings.truncation,
                dimensions=settings.dimensions,
                keep_going=True,
                use_cache=False,
            )
        )
        return [
            TextResult(failure=Failure(outcome.error.code, outcome.error.describe()))
            if outcome.error is not None
            else TextResult(row, truncated=outcome.truncated.value if outcome.truncated else None)
            for row, outcome in zip(result.vectors, result.outcomes, strict=True)
        ]

    async def probe(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts as the engines give them, without a prompt and uncut, a row each.

        Raises:
            Error: a text has no vector.
        """
        request = EmbedRequest(tuple(texts), input_type=InputType.NONE, use_cache=False)
        result = await self._embedder.embed(request)
        return result.vectors


def plan_alone(
    model: str | None, config: Config, paths: Paths, *, exact: bool = False, remotes: bool = True
) -> Plan:
    """Return the plan of an embedding model whose engines compute one text after the other, so that equal
    texts get equal bytes. On a GPU, which is idle most of the time then, only for ``exact``.

    ``remotes``: let those of the settings take part too; never for ``exact``, for nothing tells how they
    compute. ``model`` None: the first of the settings.

    Raises:
        UsageError: no model is named and none is configured.
        NotFoundError: it is neither in the store nor a file.
        PlanError: it cannot run here.
    """
    plan = plan_embedder(model, config, paths)
    on_gpu = plan.settings.gpu not in (None, "disable")
    if plan.settings.slots != 1 and (exact or not on_gpu):
        own = dataclasses.replace(config.models.get(plan.name, ModelConfig()), slots=1)
        alone = dataclasses.replace(config, models={**config.models, plan.name: own})
        plan = plan_embedder(model, alone, paths)
    return plan if remotes and not exact else without_remotes(plan)


def plan_embedder(model: str | None, config: Config, paths: Paths) -> Plan:
    """Return the plan of an embedding model as ``serve`` would run it, for None the first of the settings."""
    (plan,) = make_plans(read_embedder(config.serve, model), config, paths)
    return plan


@asynccontextmanager
async def own_engines(plan: Plan, paths: Paths, settings: EmbedSettings) -> AsyncIterator[EngineSource]:
    """Run the engines of ``plan`` while inside, its files held; its remotes take part once they are checked.

    Raises:
        NotFoundError: its file was removed meanwhile.
        NotReadyError: none became ready.
    """
    with hold_files([plan], paths):
        async with running_pools([plan], paths, _READY_SECONDS) as (pool,):
            embedder = Embedder(pool, wait_seconds=_READY_SECONDS, deadline_seconds=_CALL_SECONDS)
            yield EngineSource(embedder, settings)
