"""Tasks that stand and fall together."""

from __future__ import annotations

import asyncio

import pytest

from llamafile_mgr.errors import EngineLostError
from llamafile_mgr.task_groups import run_all


async def give(value: int, seconds: float = 0.0) -> int:
    await asyncio.sleep(seconds)
    return value


async def test_results_come_in_the_order_of_the_work() -> None:
    assert await run_all([give(1, 0.02), give(2), give(3, 0.01)]) == [1, 2, 3]
    assert await run_all([]) == []


async def test_the_first_error_ends_the_others_and_is_raised_alone() -> None:
    ended: list[str] = []

    async def wait() -> int:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append("waited for")
        return 0

    async def fail() -> int:
        await asyncio.sleep(0)
        raise EngineLostError("gone") from OSError("why")

    with pytest.raises(EngineLostError) as failure:
        await run_all([wait(), fail(), wait()])
    assert str(failure.value.__cause__) == "why"
    assert failure.value.__context__ is None
    assert ended == ["waited for", "waited for"]


async def test_cancelling_cancels_all() -> None:
    inner = [asyncio.Event(), asyncio.Event()]

    async def wait(ended: asyncio.Event) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    task = asyncio.create_task(run_all(wait(each) for each in inner))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(each.is_set() for each in inner)
