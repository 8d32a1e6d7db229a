"""The engines that serve one model, and where calls wait until one of them can be asked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.errors import EngineLostError, NotReadyError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.engine import Engine, EngineSnapshot
from llamafile_mgr.supervisor.states import EngineState

__all__ = ["Pool", "PoolSnapshot"]


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """What can be told of a pool now."""

    model: str
    role: str
    ready: bool
    waiting: int
    engines: tuple[EngineSnapshot, ...]


class Pool:
    """Routes calls to the ready engine with the fewest in flight; calls wait while none is ready."""

    def __init__(self, plan: Plan, engines: Sequence[Engine]) -> None:
        self.plan = plan
        self.engines = tuple(engines)
        self._changed = asyncio.Event()
        self._waiting = 0

    @property
    def ready(self) -> bool:
        """Tell whether a call could be sent now."""
        return any(engine.ready for engine in self.engines)

    def note_change(self) -> None:
        """Wake the waiting calls; called after every transition of one of our engines."""
        self._changed.set()
        self._changed = asyncio.Event()

    def snapshot(self) -> PoolSnapshot:
        """Return what ``status`` and ``/ready`` show."""
        return PoolSnapshot(
            model=self.plan.name,
            role=self.plan.role.value,
            ready=self.ready,
            waiting=self._waiting,
            engines=tuple(engine.snapshot() for engine in self.engines),
        )

    @contextlib.asynccontextmanager
    async def lease(self, wait_seconds: float) -> AsyncIterator[Engine]:
        """Hold the least busy ready engine for one call; its ``client`` is set.

        Raises:
            NotReadyError: no engine became ready within ``wait_seconds``, or all have failed.
        """
        engine = await self._await_engine(wait_seconds)
        engine.in_flight += 1
        try:
            yield engine
        finally:
            engine.in_flight -= 1

    async def call(
        self, request: EngineRequest, *, wait_seconds: float, deadline_seconds: float
    ) -> EngineReply:
        """Send an idempotent request; when its engine dies it is sent again to the next one.

        ``deadline_seconds`` is for the whole, waiting included.

        Raises:
            NotReadyError: no engine became ready in time.
            EngineError: the engine did not answer in time.
            EngineLostError: engines died under it until the deadline.
        """
        end = time.monotonic() + deadline_seconds
        while True:
            left = end - time.monotonic()
            async with self.lease(min(wait_seconds, left)) as engine:
                client = engine.client
                try:
                    if client is None:
                        raise EngineLostError(f"{engine.name} was stopped")
                    return await client.request(request, deadline_seconds=max(0.001, end - time.monotonic()))
                except EngineLostError:
                    if end - time.monotonic() <= 0:
                        raise
            # The engine's own task has yet to see the death: let it, instead of asking again at once.
            await asyncio.sleep(0.01)

    async def _await_engine(self, wait_seconds: float) -> Engine:
        end = time.monotonic() + wait_seconds
        self._waiting += 1
        try:
            while True:
                ready = [engine for engine in self.engines if engine.ready]
                if ready:
                    return min(ready, key=lambda engine: engine.in_flight)
                if all(engine.state is EngineState.FAILED for engine in self.engines):
                    raise self._not_ready("cannot be started")
                left = end - time.monotonic()
                if left <= 0:
                    raise self._not_ready("is not ready yet")
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), left)
        finally:
            self._waiting -= 1

    def _not_ready(self, what: str) -> NotReadyError:
        causes = [engine.cause for engine in self.engines if engine.cause is not None]
        return NotReadyError(
            f"the model {self.plan.name} {what}",
            cause=causes[0].cause if causes else None,
            hint=(causes[0].hint if causes else None) or "try again in a few seconds",
        )
