"""Where models may lie: main memory and GPUs with the room that each has, and which models fit together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from llamafile_mgr.errors import PlanError
from llamafile_mgr.machine import Machine
from llamafile_mgr.machine.vendors import find_vendor

__all__ = ["Pool", "Pools", "fit", "machine_pools"]

#: What stays free of main memory for everything else: a tenth, and at least this much.
_RESERVE_SHARE, _RESERVE_LEAST = 0.10, 256 * 1024**2
#: Share of a GPU's free memory that a model may be planned to fill; the driver and fragments take the rest.
_GPU_SHARE = 0.80


@dataclass(frozen=True, slots=True)
class Pool:
    """One memory. ``room``: bytes that may be planned with. ``accelerated``: a GPU that is worth its while
    computes on it. ``backend``: the word for ``--gpu``, ``None`` for the processor."""

    name: str
    room: int
    accelerated: bool = False
    backend: str | None = None


@dataclass(frozen=True, slots=True)
class Pools:
    """All memories, fastest first. ``ceiling``: bytes that all models together may take."""

    pools: tuple[Pool, ...]
    ceiling: int | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the rooms as a phrase, after "there are"."""
        rooms = " and ".join(f"{pool.room / 1e9:.1f} GB in {pool.name}" for pool in self.pools)
        limit = "" if self.ceiling is None else f", and {self.ceiling / 1e9:.1f} GB allowed"
        return rooms + limit


def machine_pools(machine: Machine, max_memory: int | None = None) -> Pools:
    """Return the memories of a machine, each with a reserve taken off; ``max_memory`` bounds their sum.

    Unified memory is one pool with main memory. GPUs that no engine can use, or whose memory
    nothing tells, are left out and noted.

    Raises:
        PlanError: nothing tells the available memory, and ``max_memory`` is not given.
    """
    usable = machine.memory.usable
    if usable is None and max_memory is None:
        raise PlanError("nothing tells how much memory this machine has", hint="give it: --max-memory 8GB")
    notes: list[str] = []
    found: list[Pool] = []
    shared: Pool | None = None
    for gpu in machine.gpus:
        if gpu.backend is None:
            notes.append(f"{gpu.name} is left out: no engine can use it here (see doctor)")
            continue
        room = machine.memory_of(gpu)
        if gpu.unified:
            # Integrated graphics of PCs share the processor's memory bandwidth and gain little over it.
            vendor = find_vendor(gpu.vendor)
            strong = vendor is not None and vendor.quick_unified
            shared = shared or Pool(f"{gpu.name} (unified memory)", 0, strong, gpu.backend)
        elif room is None:
            notes.append(f"{gpu.name} is left out: nothing tells its memory")
        else:
            found.append(Pool(gpu.name, int(room * _GPU_SHARE), True, gpu.backend))
    _number(found)
    reserve = max(_RESERVE_LEAST, int((usable or 0) * _RESERVE_SHARE))
    room = max_memory if usable is None else max(0, usable - reserve)
    main = Pool("main memory", room or 0)
    if shared is not None and shared.accelerated:
        main = Pool(shared.name, main.room, True, shared.backend)
    found.sort(key=lambda pool: -pool.room)
    return Pools((*found, main), max_memory, tuple(notes))


def fit(needs: Sequence[int], pools: Pools) -> tuple[Pool, ...] | None:
    """Return a pool for each need so that all fit at once, as many as can be on GPUs; ``None`` if none does.

    The last need goes first to the fastest pool: a generation model gains more from a GPU than an embedding
    model beside it.
    """
    if pools.ceiling is not None and sum(needs) > pools.ceiling:
        return None
    order = range(len(pools.pools))
    choices = sorted(
        itertools.product(order, repeat=len(needs)),
        key=lambda choice: (sum(not pools.pools[i].accelerated for i in choice), choice[::-1]),
    )
    for choice in choices:
        rooms = [pool.room for pool in pools.pools]
        for need, index in zip(needs, choice, strict=True):
            rooms[index] -= need
        if min(rooms) >= 0:
            return tuple(pools.pools[i] for i in choice)
    return None


def _number(pools: list[Pool]) -> None:
    """Tell GPUs of the same name apart."""
    names = [pool.name for pool in pools]
    for i, pool in enumerate(pools):
        if names.count(pool.name) > 1:
            label = f"{pool.name} #{names[: i + 1].count(pool.name)}"
            pools[i] = Pool(label, pool.room, pool.accelerated, pool.backend)
