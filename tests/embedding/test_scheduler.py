"""Groups whose callers leave before they have begun neither keep a place nor take others with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from llamafile_mgr.embedding.batching import BatchPolicy, Lane
from llamafile_mgr.embedding.groups import Budget, ItemResult
from llamafile_mgr.embedding.scheduler import Scheduler

POLICY = BatchPolicy(group_texts=4)


class SlowRunner:
    """Answers when its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.groups: list[list[str]] = []

    async def run(self, texts: Sequence[str], tokens: Sequence[int], budget: Budget) -> list[ItemResult]:
        self.groups.append(list(texts))
        await self.gate.wait()
        return [ItemResult(np.ones(2, np.float32))] * len(texts)


def ask(scheduler: Scheduler, *texts: str) -> asyncio.Task[list[ItemResult | None]]:
    end = time.monotonic() + 5
    work = scheduler.embed(texts, [3] * len(texts), Lane.BULK, Budget(end, end), stop_early=True)
    return asyncio.create_task(work)


async def answered(call: asyncio.Task[list[ItemResult | None]]) -> bool:
    return all(result is not None and result.error is None for result in await asyncio.wait_for(call, 2))


async def test_leaving_at_any_moment_takes_no_place_and_no_neighbour() -> None:
    for turns in range(8):
        runner = SlowRunner()
        scheduler = Scheduler(runner, lambda: POLICY, lambda: 1)
        leaving, staying = ask(scheduler, "a"), ask(scheduler, "b")
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        runner.gate.set()
        assert await answered(staying)
        assert await answered(ask(scheduler, "c"))


async def test_a_group_that_nobody_waits_for_frees_its_place() -> None:
    for turns in range(8):
        runner = SlowRunner()
        scheduler = Scheduler(runner, lambda: POLICY, lambda: 1)
        leaving = ask(scheduler, "a")
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        runner.gate.set()
        assert await answered(ask(scheduler, "b"))
