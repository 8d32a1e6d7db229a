"""Ending what a task is doing with an error, by a timer or by an event, without a task of its own."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

__all__ = ["Interruption", "TimeLimit"]


class Interruption:
    """A context whose body ``interrupt`` ends with an error, wherever it waits. ``task``: that of the body,
    by default the present one.

    ``asyncio.timeout`` does the same for times, ``asyncio.wait_for`` starts a task.
    """

    __slots__ = ("_error", "_task")

    def __init__(self, task: asyncio.Task[Any] | None = None) -> None:
        self._error: Exception | None = None
        self._task = task or asyncio.current_task()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._error is None or self._task is None:
            return
        # Somebody else who cancelled us at the same moment must not be overheard.
        cancelled_again = self._task.uncancel() > 0
        if kind is asyncio.CancelledError and not cancelled_again:
            raise self._error from None

    def interrupt(self, error: Exception) -> None:
        """End the body with ``error``; the first one counts."""
        if self._error is None and self._task is not None:
            self._error = error
            self._task.cancel()


class TimeLimit(Interruption):
    """A context whose body is ended after ``seconds`` with ``TimeoutError``."""

    __slots__ = ("_timer",)

    def __init__(self, seconds: float) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self.interrupt, TimeoutError())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        super().__exit__(kind, error, traceback)
