"""Whoever waits for a change hears of it, at once and without fail."""

from __future__ import annotations

import asyncio
import time

import pytest

from llamafile_mgr.changes import Changes, wait_any


async def soon(condition: bool = True) -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    assert condition


def test_a_waiter_looks_once_for_every_change_and_never_between() -> None:
    async def scene() -> None:
        changes, value, looks = Changes(), [0], 0

        def enough() -> bool:
            nonlocal looks
            looks += 1
            return value[0] >= 2

        waiting = asyncio.create_task(changes.wait_for(enough))
        for number in range(3):
            await soon()
            assert looks == number + 1
            value[0] = number
            changes.announce()
        assert await waiting
        assert looks == 4

    asyncio.run(scene())


def test_many_wait_and_one_that_leaves_takes_nothing_along() -> None:
    async def scene() -> None:
        changes, value = Changes(), [""]
        waiting = [asyncio.create_task(changes.wait_for(lambda: value[0])) for _ in range(4)]
        await soon()
        waiting[1].cancel()
        value[0] = "there"
        changes.announce()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [each for each in ended if each == "there"] == ["there"] * 3
        assert isinstance(ended[1], asyncio.CancelledError)

    asyncio.run(scene())


def test_time_runs_out_with_the_last_answer() -> None:
    async def scene() -> None:
        began = time.monotonic()
        assert await Changes().wait_for(lambda: 0, 0.05) == 0
        assert 0.04 < time.monotonic() - began < 1.0
        assert await Changes().wait_for(lambda: 7, 0.0) == 7

    asyncio.run(scene())


def test_whoever_watches_over_several_hears_of_each() -> None:
    async def scene() -> None:
        house = Changes()
        rooms = [Changes(house.announce) for _ in range(3)]
        value = [False]
        waiting = asyncio.create_task(house.wait_for(lambda: value[0], 5.0))
        await soon()
        value[0] = True
        rooms[2].announce()
        assert await waiting

    asyncio.run(scene())


def test_an_error_of_the_predicate_reaches_the_one_who_waits() -> None:
    async def scene() -> None:
        with pytest.raises(ZeroDivisionError):
            await Changes().wait_for(lambda: 1 // 0)

    asyncio.run(scene())


async def test_one_of_several_is_enough_and_none_remembers_those_who_left() -> None:
    several = [Changes() for _ in range(3)]
    waiting = asyncio.create_task(wait_any(several))
    await soon()
    several[1].announce()
    await asyncio.wait_for(waiting, 1)
    cancelled = asyncio.create_task(wait_any(several))
    await soon()
    cancelled.cancel()
    await asyncio.wait({cancelled})
    await wait_any(several, 0.01)
    assert [each._waiting for each in several] == [[], [], []]
