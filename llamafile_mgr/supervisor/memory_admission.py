"""The main memory that all models share: who is unloaded before another is started, and who has to wait."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from llamafile_mgr.changes import Changes
from llamafile_mgr.errors import NotReadyError
from llamafile_mgr.supervisor.eviction import EvictionCandidate, Move, decide_room
from llamafile_mgr.supervisor.pool import Pool
from llamafile_mgr.supervisor.process_memory import available_bytes, resident_bytes

_LOG = logging.getLogger("llamafile_mgr.supervisor")
#: So long an incoming model waits for busy models to become idle.
_PATIENCE_SECONDS = 60.0
#: So often it looks meanwhile at the memory that other programs leave, who tell nobody.
_LOOK_SECONDS = 1.0


def measure(pools: Sequence[Pool]) -> tuple[list[int], int]:
    """Return the resident bytes of each pool's engines, and what is available beside. Blocks."""
    resident = [
        sum(resident_bytes(engine.pid) for engine in pool.engines if engine.pid is not None) for pool in pools
    ]
    return resident, available_bytes()


class MemoryAdmission:
    """Makes room for one model at a time. ``changes``: of all pools. ``limit_bytes``: what all engines
    together may take, None for what there is. ``measure`` runs in a thread."""

    def __init__(
        self,
        changes: Changes,
        limit_bytes: int | None,
        *,
        measure: Callable[[Sequence[Pool]], tuple[list[int], int]] = measure,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._changes = changes
        self.limit_bytes = limit_bytes
        self._measure = measure
        self._patience_seconds = patience_seconds
        self._admitting = asyncio.Lock()

    async def make_room(self, incoming: Pool, pools: Sequence[Pool]) -> None:
        """Unload the least recently used idle models until the incoming model's predicted memory is there.

        Raises:
            NotReadyError: the limit of all engines leaves no room, or those who take it stay busy.
        """
        patience = time.monotonic() + self._patience_seconds
        # One incoming model at a time: what it is going to take counts only once its engines are there.
        async with self._admitting:
            while True:
                move = await self.decide(incoming, pools)
                if move is Move.START:
                    return
                if move is Move.REFUSE:
                    self._refuse(incoming)
                    return
                if isinstance(move, EvictionCandidate):
                    _LOG.info("%s is unloaded to make room for %s", move.name, incoming.plan.name)
                    await next(pool for pool in pools if pool.plan.name == move.name).unload()
                    continue
                left = patience - time.monotonic()
                if left <= 0:
                    raise NotReadyError(
                        f"there is no memory for {incoming.plan.name}: the other models are busy",
                        hint="try again later, serve fewer models, or raise serve.memory_limit",
                    )
                await self._changes.wait_for(
                    lambda: any(_is_loose(pool) for pool in pools if pool is not incoming),
                    min(left, _LOOK_SECONDS),
                )

    async def decide(self, incoming: Pool, pools: Sequence[Pool]) -> Move | EvictionCandidate:
        """Return what is to be done before the incoming model is started."""
        memory = incoming.plan.memory
        if memory is None:
            return Move.START
        others = [pool for pool in pools if pool is not incoming and _lives(pool)]
        resident, available = await asyncio.to_thread(self._measure, others)
        loaded = [
            EvictionCandidate(
                name=pool.plan.name,
                resident=taken,
                idle_seconds=pool.idle_seconds,
                pinned=pool.options.pinned,
                busy=pool.busy,
                predicted=pool.plan.memory.joint if pool.plan.memory is not None else 0,
            )
            for pool, taken in zip(others, resident, strict=True)
        ]
        return decide_room(memory.joint, available, loaded, self.limit_bytes)

    def _refuse(self, incoming: Pool) -> None:
        """Say that nothing makes room; only a limit is a reason to raise NotReadyError: predictions err."""
        if self.limit_bytes is not None:
            raise NotReadyError(
                f"{incoming.plan.name} does not fit into serve.memory_limit beside the pinned models",
                hint="raise serve.memory_limit, or serve fewer models",
            )
        _LOG.warning("%s is started although memory looks too small for it", incoming.plan.name)


def _lives(pool: Pool) -> bool:
    return any(not engine.over for engine in pool.engines)


def _is_loose(pool: Pool) -> bool:
    return _lives(pool) and not pool.busy and not pool.options.pinned
