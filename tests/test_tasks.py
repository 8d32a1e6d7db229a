"""A task that nobody awaits says why it ended."""

from __future__ import annotations

import asyncio
import logging

import pytest

from llamafile_mgr.tasks import start_task


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
