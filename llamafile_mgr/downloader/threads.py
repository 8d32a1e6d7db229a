"""Work in a thread that must not be left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["run_to_end"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def run_to_end(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
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


async def _wait(task: asyncio.Future[_T]) -> asyncio.CancelledError | None:
    """Wait for ``task`` and return the cancellation that came meanwhile, if any."""
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError as error:
        return error
    return None
