"""A query that arrives during a bulk job waits for one batch of bulk at the most.

The engines here compute in the order of arrival, one batch after another at each of their slots, and every
batch takes one tick, so that a wait is a count and no measurement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

from llamafile_mgr.engines.families import Family
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.calls import Caller, Deadline, Priority, Work
from llamafile_mgr.supervisor.permits import WorkerSlot
from llamafile_mgr.supervisor.request_work import RequestWork
from tests.embedding.stub_pool import StubPool, make_plan


class TickingWork(RequestWork):
    """What engines compute in ticks."""

    def __init__(self, slots: int) -> None:
        self.queues: dict[object, deque[asyncio.Future[None]]] = {}
        self.slots = slots
        self.computed = 0

    async def compute(self, slot: WorkerSlot, payloads: Sequence[Any], tokens: Sequence[int]) -> list[Any]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queues.setdefault(slot.engine, deque()).append(done)
        await done
        return list(payloads)

    async def tick(self) -> None:
        """Finish what every slot computes, and let the pool send what comes next."""
        for queue in self.queues.values():
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
async def test_a_query_waits_for_one_batch_of_bulk(plan: Plan, slots: int, replicas: int) -> None:
    pool, engines = StubPool(plan, replicas), TickingWork(slots)
    work: Work = engines
    caller = Caller("", Deadline.after(60, 60))

    def ask(texts: int, priority: Priority) -> asyncio.Task[list[str]]:
        payloads = [str(n) for n in range(texts)]
        return asyncio.create_task(pool.calls.compute(work, payloads, [100] * texts, priority, caller))

    bulk = ask(900, Priority.BULK)
    await settle()
    waits = []
    for pause in [0, 1, 2, 3, 5, 1, 0, 0, 4, 2]:
        for _ in range(pause):
            await engines.tick()
        query, ticks = ask(1, Priority.QUERY), 0
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
