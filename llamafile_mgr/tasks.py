"""Tasks that run beside what started them and do not vanish when they fail, and several that run as one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

__all__ = ["run_all", "start_task"]

_LOG = logging.getLogger("llamafile_mgr.tasks")

T = TypeVar("T")


def start_task(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Start a task that nobody may ever await: what it raises is logged with its traceback."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_failure)
    return task


async def run_all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once and return what they give, in order.

    When one fails, or we are cancelled, the others are cancelled and waited for. Its error is raised as it
    is, not in a group: callers have one answer to give.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failed:
        error = failed.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise error  # here, where the group does not become its context


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error("the task %r failed: %s", task.get_name(), error, exc_info=error)
