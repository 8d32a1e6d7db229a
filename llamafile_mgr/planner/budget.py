"""The memories of a machine as a recommendation names them: main memory and GPUs, with what is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llamafile_mgr.errors import PlanError
from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.memory_left import HostRoom
from llamafile_mgr.planner.placement import find_rooms, is_worthwhile

__all__ = ["MemoryBudget", "describe_budgets", "memory_budgets"]


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """One memory. ``room``: bytes that models can take. ``accelerated``: a GPU that is worth its while
    computes on it. ``backend``: the word for ``--gpu``, None for the processor."""

    name: str
    room: int
    accelerated: bool = False
    backend: str | None = None


def memory_budgets(
    machine: Machine, environ: Mapping[str, str], limit: int | None = None
) -> tuple[tuple[MemoryBudget, ...], tuple[str, ...]]:
    """Return the memories, GPUs first, and notes on the GPUs that are left out.

    Unified memory is one with main memory.

    Raises:
        PlanError: nothing tells the available memory, and there is no ``limit``.
    """
    if machine.memory.usable is None and limit is None:
        raise PlanError("nothing tells how much memory this machine has", hint="give it: --max-memory 8GB")
    now = HostRoom.of(machine).now
    main = MemoryBudget("main memory", limit or 0 if now is None else now)
    rooms = find_rooms(machine, environ)
    names = [room.gpu.name for room in rooms]
    found = []
    for gpu, free in ((room.gpu, room.free) for room in rooms):
        if not gpu.unified:
            label = f"{gpu.name} #{gpu.index}" if names.count(gpu.name) > 1 else gpu.name
            found.append(MemoryBudget(label, free, True, gpu.backend))
        elif is_worthwhile(gpu):
            main = replace(main, name=f"{gpu.name} (unified memory)", accelerated=True, backend=gpu.backend)
    left_out = (gpu for gpu in machine.gpus if all(room.gpu is not gpu for room in rooms))
    notes = [
        f"{gpu.name} is left out: no engine can use it here (see doctor)"
        if gpu.backend is None
        else f"{gpu.name} is left out: nothing tells its memory, or a variable hides it"
        for gpu in left_out
    ]
    return (*sorted(found, key=lambda budget: -budget.room), main), tuple(notes)


def describe_budgets(budgets: tuple[MemoryBudget, ...], limit: int | None) -> str:
    """Return the memories as a phrase, after "there are"."""
    rooms = " and ".join(f"{budget.room / 1e9:.1f} GB in {budget.name}" for budget in budgets)
    return rooms + ("" if limit is None else f", and {limit / 1e9:.1f} GB allowed")
