"""A time limit that costs a timer and no task: every embedding call has one."""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType

__all__ = ["TimeLimit"]


class TimeLimit:
    """An async context whose body is ended after ``seconds`` with ``asyncio.TimeoutError``.

    ``asyncio.timeout`` does the same from Python 3.11 on; ``asyncio.wait_for`` starts a task.
    """

    __slots__ = ("_expired", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expired = False
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._expired or self._task is None:
            return
        # Somebody else who cancelled us at the same moment must not be overheard.
        cancelled_again = sys.version_info >= (3, 11) and self._task.uncancel() > 0
        if kind is asyncio.CancelledError and not cancelled_again:
            raise asyncio.TimeoutError from error

    def _expire(self) -> None:
        self._expired = True
        if self._task is not None:
            self._task.cancel()
