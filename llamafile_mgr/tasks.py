"""Tasks that do not vanish when they fail, several that run as one, and threads that are waited for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, ParamSpec, TypeVar

_LOG = logging.getLogger("llamafile_mgr.tasks")

P = ParamSpec("P")
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


async def run_to_end(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``work`` in a thread and wait for it even when cancelled; the cancellation follows then.

    ``asyncio.to_thread`` lets go of its thread on cancellation. One that still writes through a
    descriptor which its owner then closes could write into another file.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        cancelled = await _wait(task) or cancelled
    if cancelled is not None:
        # The outcome is looked at, so that a failure beside the cancellation is not reported as lost.
        task.exception()
        raise cancelled
    return task.result()


async def _wait(task: asyncio.Future[T]) -> asyncio.CancelledError | None:
    """Wait for ``task`` and return the cancellation that came meanwhile, if any."""
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError as error:
        return error
    return None
