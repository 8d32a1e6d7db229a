"""Who waits for the models of a ``serve`` hears of their changes, and looks at nothing between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from llamafile_mgr.changes import Changes
from llamafile_mgr.errors import EngineStartError, NotReadyError, PlanError
from llamafile_mgr.proxy.leases import Leases, LeaseTerms
from llamafile_mgr.proxy.serving import until_ready
from llamafile_mgr.supervisor.snapshots import EngineSnapshot, PoolSnapshot
from llamafile_mgr.supervisor.states import EngineState

Answers = AsyncGenerator[dict[str, Any], None]


class Models:
    """Models whose state changes as told; counts how often it is looked at."""

    def __init__(self, count: int = 2) -> None:
        self.changes = Changes()
        self.states = [EngineState.STARTING] * count
        self.resting = [False] * count
        self.looks = 0

    def snapshots(self) -> list[PoolSnapshot]:
        self.looks += 1
        return [self._snapshot(number) for number in range(len(self.states))]

    def _snapshot(self, number: int) -> PoolSnapshot:
        engine = EngineSnapshot(
            name=f"e{number}",
            state=self.states[number],
            age_seconds=0.0,
            pid=None,
            port=None,
            restarts=0,
            in_flight=0,
            served=0,
            cause="its file is damaged",
            steps=(),
            retry_seconds=None,
            transitions=(),
            log="the.log",
        )
        return PoolSnapshot(
            model=f"m{number}",
            role="embed",
            family="v10",
            ready=self.states[number] is EngineState.READY,
            loaded=not self.resting[number],
            pinned=True,
            waiting=0,
            idle_seconds=0.0,
            engines=() if self.resting[number] else (engine,),
            resting=self.resting[number],
        )

    async def move(self, number: int, state: EngineState) -> None:
        self.states[number] = state
        self.changes.announce()
        for _ in range(5):
            await asyncio.sleep(0)

    def leases(self, *, for_users: bool = False) -> Leases:
        terms = LeaseTerms("key", lambda: False) if for_users else None
        return Leases(self.snapshots, self.changes, {"url": "http://x"}, terms)


async def test_a_start_is_looked_at_once_for_every_change() -> None:
    models = Models()
    waiting = asyncio.create_task(until_ready(models.snapshots, models.changes))
    for number, state in ((0, EngineState.WARMING), (0, EngineState.READY), (1, EngineState.WARMING)):
        await asyncio.sleep(0.05)
        await models.move(number, state)
        assert not waiting.done()
    await models.move(1, EngineState.READY)
    assert [each.ready for each in await waiting] == [True, True]
    assert models.looks == 5


async def test_one_that_rests_need_not_be_ready_and_one_that_failed_ends_the_start() -> None:
    models = Models()
    models.resting[1] = True
    await models.move(0, EngineState.READY)
    await asyncio.wait_for(until_ready(models.snapshots, models.changes), 1)
    models.resting[1] = False
    await models.move(1, EngineState.FAILED)
    with pytest.raises(EngineStartError, match="m1 cannot be started"):
        await asyncio.wait_for(until_ready(models.snapshots, models.changes), 1)


async def test_a_lease_tells_at_once_when_all_are_ready() -> None:
    models = Models()
    leases, gone = models.leases(), asyncio.get_running_loop().create_future()
    answers = leases.hold({"command": "lease"}, gone)
    assert (await anext(answers))["leased"]
    coming = asyncio.create_task(anext(answers))
    await models.move(0, EngineState.READY)
    await models.move(1, EngineState.READY)
    assert not coming.done()
    looks, began = models.looks, time.monotonic()
    leases.mark_started()
    assert (await coming)["ready"]
    assert time.monotonic() - began < 0.5
    assert models.looks == looks + 1
    assert leases.users == 1
    last = asyncio.create_task(anext(answers, None))
    await asyncio.sleep(0)
    gone.set_result(None)
    assert await last is None
    assert leases.users == 0


async def test_a_lease_says_now_and_then_what_it_waits_for() -> None:
    models = Models()
    gone = asyncio.get_running_loop().create_future()
    answers = models.leases().hold({}, gone)
    await anext(answers)
    await models.move(0, EngineState.READY)
    assert await asyncio.wait_for(anext(answers), 5) == {"waiting": ["m1"]}
    assert models.looks <= 4
    await answers.aclose()


async def test_one_who_goes_while_waiting_gives_its_lease_back() -> None:
    models = Models()
    leases, gone = models.leases(), asyncio.get_running_loop().create_future()
    answers = leases.hold({}, gone)
    await anext(answers)
    coming = asyncio.create_task(anext(answers, None))
    await asyncio.sleep(0.02)
    gone.set_result(None)
    assert await asyncio.wait_for(coming, 0.5) is None
    assert leases.users == 0


async def test_a_failed_start_is_told_to_everybody_before_it_ends() -> None:
    models = Models()
    leases = models.leases()
    waiting = []
    for _ in range(3):
        answers = leases.hold({}, asyncio.get_running_loop().create_future())
        await anext(answers)
        waiting.append(asyncio.create_task(anext(answers)))
    await asyncio.sleep(0.02)
    began = time.monotonic()
    await leases.fail(PlanError("no"))
    assert time.monotonic() - began < 0.5
    said = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in said] == [PlanError] * 3


async def test_a_serve_for_its_users_ends_with_the_last_of_them() -> None:
    models = Models()
    leases, gone = models.leases(for_users=True), asyncio.get_running_loop().create_future()
    ending = asyncio.create_task(leases.unused())
    answers = leases.hold({"keep_seconds": 0.2}, gone)
    await anext(answers)
    await asyncio.sleep(0.05)
    assert not ending.done()
    began = time.monotonic()
    await answers.aclose()
    await asyncio.wait_for(ending, 5)
    assert 0.15 < time.monotonic() - began < 2
    with pytest.raises(NotReadyError, match="about to end"):
        await anext(leases.hold({}, gone))
