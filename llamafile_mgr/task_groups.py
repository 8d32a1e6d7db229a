"""Several tasks as one: all of them end before the error of one is raised."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

__all__ = ["run_all"]

_T = TypeVar("_T")


async def run_all(works: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
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
