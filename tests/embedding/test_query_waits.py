"""A query that arrives during a bulk job waits for one group of bulk at the most.

The engines here compute in the order of arrival, one group after another at each of their slots, and every
group takes one tick, so that a wait is a count and no measurement.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import pytest

from llamafile_mgr.embedding.batching import Lane
from llamafile_mgr.embedding.groups import Budget, ItemResult
from llamafile_mgr.embedding.scheduler import Scheduler
from llamafile_mgr.embedding.service import make_policy
from llamafile_mgr.engines.families import Family
from llamafile_mgr.planner.plans import Plan
from tests.embedding.stub_pool import make_plan


class TickingEngines:
    """Engines that are chosen as a pool does: the one with the fewest groups, the first of equals."""

    def __init__(self, replicas: int, slots: int) -> None:
        self.queues: list[deque[asyncio.Future[None]]] = [deque() for _ in range(replicas)]
        self.slots = slots
        self.computed = 0

    async def run(self, texts: Sequence[str], tokens: Sequence[int], budget: Budget) -> list[ItemResult]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        min(self.queues, key=len).append(done)
        await done
        return [ItemResult(np.ones(2, np.float32))] * len(texts)

    async def tick(self) -> None:
        """Finish what every slot computes, and let the scheduler send what comes next."""
        for queue in self.queues:
            for _ in range(min(self.slots, len(queue))):
                self.computed += 1
                queue.popleft().set_result(None)
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


ONE_A_REQUEST = make_plan(family=Family.V2, slots=3)


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize(("plan", "slots"), [(make_plan(), 1), (ONE_A_REQUEST, 3)], ids=["v10", "v2"])
async def test_a_query_waits_for_one_group_of_bulk(plan: Plan, slots: int, replicas: int) -> None:
    engines = TickingEngines(replicas, slots)
    scheduler = Scheduler(engines, lambda: make_policy(plan), lambda: replicas)
    end = time.monotonic() + 60

    def ask(texts: int, lane: Lane) -> asyncio.Task[list[ItemResult | None]]:
        work = scheduler.embed(
            [str(n) for n in range(texts)], [100] * texts, lane, Budget(end, end), stop_early=True
        )
        return asyncio.create_task(work)

    bulk = ask(900, Lane.BULK)
    await settle()
    waits = []
    for pause in [0, 1, 2, 3, 5, 1, 0, 0, 4, 2]:
        for _ in range(pause):
            await engines.tick()
        query, ticks = ask(1, Lane.QUERY), 0
        await settle()
        while not query.done():
            await engines.tick()
            ticks += 1
        waits.append(ticks - 1)
    assert not bulk.done(), "the job must last as long as the queries"
    assert max(waits) == 1, waits
    before, ticks = engines.computed, 0
    while not bulk.done():
        await engines.tick()
        ticks += 1
    # Without queries every slot has work until the last tick.
    assert engines.computed - before > (ticks - 1) * replicas * slots
