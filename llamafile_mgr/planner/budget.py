"""The memories of a machine as a recommendation names them: main memory and GPUs, with what is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llamafile_mgr.errors import PlanError
from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.placement import find_rooms, is_worthwhile
from llamafile_mgr.planner.rooms import HostRoom

__all__ = ["MAIN_MEMORY", "MemoryBudget", "describe_budgets", "memory_budgets"]

MAIN_MEMORY = "main memory"


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
    main = MemoryBudget(MAIN_MEMORY, limit or 0 if now is None else now)
    rooms = find_rooms(machine, environ)
    found = []
    for gpu in (room.gpu for room in rooms):
        if gpu.unified and is_worthwhile(gpu):
            main = replace(main, name=f"{gpu.name} (unified memory)", accelerated=True, backend=gpu.backend)
    for room in rooms:
        if not room.gpu.unified:
            names = [each.gpu.name for each in rooms]
            at = f" #{room.gpu.index}" if names.count(room.gpu.name) > 1 else ""
            found.append(MemoryBudget(f"{room.gpu.name}{at}", room.free, True, room.gpu.backend))
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
