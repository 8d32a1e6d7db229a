"""Bringing one started process to readiness: its port, its health route, its first right answers.

The deadline is a stall timer: it runs out when an engine says nothing for too long, not when a large model
takes its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineStartError
from llamafile_mgr.supervisor.ports import listens_on
from llamafile_mgr.supervisor.process import EngineProcess

__all__ = ["EngineChecks", "StallTimer", "await_health", "find_port"]

_POLL_SECONDS = 0.02
_HEALTH_SECONDS = 5.0
_OWNERSHIP_SECONDS = 1.0


class EngineChecks(Protocol):
    """What an engine must be able to do; each raises EngineError when it does not do it right."""

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        """Prove that the engine's answers are right; asked once per start."""

    async def check_alive(self, client: EngineClient, rules: EngineFamily) -> None:
        """Get one small real answer; asked of engines that have been silent."""


class StallTimer:
    """Awaits work for as long as the engine's log goes on. ``last_words`` gives the end of that log."""

    def __init__(self, process: EngineProcess, seconds: float, last_words: Callable[[], str]) -> None:
        self._process = process
        self._seconds = seconds
        self._last_words = last_words

    async def run(self, work: Awaitable[int | None]) -> int:
        """Return the result of ``work``.

        Raises:
            EngineStartError: the engine said nothing for the whole time.
        """
        task = asyncio.ensure_future(work)
        began = time.monotonic()
        try:
            while not task.done():
                left = max(self._process.last_output, began) + self._seconds - time.monotonic()
                if left <= 0:
                    raise EngineStartError(
                        f"it was silent for {self._seconds:g} seconds before it was ready",
                        cause=self._last_words() or "it printed nothing",
                    )
                await asyncio.wait({task}, timeout=left)
            return task.result() or 0
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def find_port(pid: int, chosen: int, listening: asyncio.Future[int]) -> int:
    """Return the port that the engine prints or, where it prints none, ``chosen`` once it listens there.

    A v1 engine moves on when its port is taken, so that a stranger may answer on the one it was given.
    """
    while True:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(listening), _OWNERSHIP_SECONDS)
        if chosen and await asyncio.to_thread(listens_on, pid, chosen):
            return chosen


async def await_health(client: EngineClient, rules: EngineFamily) -> None:
    """Return once the health route is green."""
    while True:
        with contextlib.suppress(EngineError):
            reply = await client.request(rules.health(), deadline_seconds=_HEALTH_SECONDS)
            if reply.status == 200:
                return
        await asyncio.sleep(_POLL_SECONDS)
