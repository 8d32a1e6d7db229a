"""A task that nobody awaits says why it ended."""

from __future__ import annotations

import asyncio
import logging

import pytest

from llamafile_mgr.errors import EngineLostError
from llamafile_mgr.tasks import run_all, start_task


async def fail() -> None:
    raise ZeroDivisionError("of ours")


async def test_what_ends_a_task_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    task = start_task(fail(), "a name")
    await asyncio.wait({task})
    record = caplog.records[-1]
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "the task 'a name' failed: of ours")
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_an_end_and_a_cancellation_are_no_failures(caplog: pytest.LogCaptureFixture) -> None:
    assert await start_task(asyncio.sleep(0, 7), "ends") == 7
    task = start_task(asyncio.sleep(60), "is cancelled")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert caplog.records == []


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
