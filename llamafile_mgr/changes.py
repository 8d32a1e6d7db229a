"""Telling those who wait that a state of ours has changed, so that nobody has to look again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Changes:
    """The changes of one state, on one event loop. ``tell``: whoever watches over more than this state.

    It costs next to nothing where nobody waits.
    """

    def __init__(self, tell: Callable[[], None] | None = None) -> None:
        self._tell = tell
        self._waiting: list[asyncio.Future[None]] = []

    def announce(self) -> None:
        """Say that the state has changed; those who wait look at it in the loop's next turn."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)
        if self._tell is not None:
            self._tell()

    async def wait(self, seconds: float | None = None) -> None:
        """Return at the next change, or after ``seconds``."""
        await wait_any((self,), seconds)

    async def wait_for(self, predicate: Callable[[], T], seconds: float | None = None) -> T:
        """Return what ``predicate`` gives once that is true, or after ``seconds`` what it gives then."""
        end = None if seconds is None else time.monotonic() + seconds
        while not (found := predicate()):
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            await self.wait(left)
        return found


async def wait_any(several: Sequence[Changes], seconds: float | None = None) -> None:
    """Return at the next change of any of them, or after ``seconds``."""
    change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for each in several:
        each._waiting.append(change)
    try:
        if seconds is None:
            await change
        else:
            await asyncio.wait({change}, timeout=seconds)
    finally:
        for each in several:
            if change in each._waiting:
                each._waiting.remove(change)
