"""The memories of a machine: what is left of each while models are planned, and their names for people.

Pure. Sizes are bytes, infinite where nothing tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite

from llamafile_mgr.errors import PlanError
from llamafile_mgr.machine import Gpu, Machine
from llamafile_mgr.machine.vendors import backend_of, find_vendor
from llamafile_mgr.planner.memory import MIB, format_size

#: Kept for this program (about 100 MiB with its proxy) and for what others ask meanwhile.
_RESERVE_NOW = 256 * MIB
#: Of the whole machine an eighth is left to the system; a cgroup's limit is ours but for the reserve.
_SYSTEM_PART = 8


@dataclass(frozen=True, slots=True)
class HostBudget:
    """Main memory: ``now`` can be taken at once, ``ever`` if other programs made room.

    ``size``: of the machine, or of the cgroup where that is less. ``taken``: who took how much.
    """

    now: float = inf
    ever: float = inf
    size: float = inf
    taken: tuple[str, ...] = ()

    @classmethod
    def of(cls, machine: Machine) -> HostBudget:
        """Return the budget before any model is planned."""
        memory = machine.memory
        size = inf if memory.ceiling is None else memory.ceiling
        usable = inf if memory.usable is None else memory.usable
        ours = inf if memory.total is None else memory.total - memory.total // _SYSTEM_PART
        ever = max(0, min(size - _RESERVE_NOW, ours))
        return cls(min(max(0, usable - _RESERVE_NOW), ever), ever, size)

    def take(self, name: str, amount: int) -> HostBudget:
        """Return what is left after a model took ``amount``."""
        taken = (*self.taken, f"{name} ({format_size(amount)})")
        return replace(self, now=max(0, self.now - amount), ever=max(0, self.ever - amount), taken=taken)


@dataclass(frozen=True, slots=True)
class GpuBudget:
    """One GPU and the bytes that are left on it; the share of main memory for a unified one."""

    gpu: Gpu
    free: float


def gpu_budgets(machine: Machine, environ: Mapping[str, str]) -> tuple[GpuBudget, ...]:
    """Return the GPUs that an engine could use and that the environment does not hide."""
    usable = (gpu for gpu in machine.gpus if gpu.backend is not None and not _is_hidden(gpu, environ))
    return tuple(GpuBudget(gpu, free) for gpu in usable if (free := machine.memory_of(gpu)) is not None)


def is_worthwhile(gpu: Gpu) -> bool:
    """Tell whether a GPU is much faster than the processor beside it."""
    vendor = find_vendor(gpu.vendor)
    return not gpu.unified or (vendor is not None and vendor.quick_unified)


def _is_hidden(gpu: Gpu, environ: Mapping[str, str]) -> bool:
    """Tell whether a variable of the user's hides this GPU; names other than numbers hide none."""
    backend = backend_of(gpu.backend)
    value = environ.get(backend.hiding) if backend is not None and backend.hiding else None
    if value is None or gpu.index is None:
        return False
    words = [word.strip() for word in value.split(",")]
    if words in ([""], ["-1"]):
        return True
    return all(word.isdigit() for word in words) and str(gpu.index) not in words


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """One memory of a recommendation. ``room``: bytes that models can take. ``accelerated``: a GPU that is
    worth its while computes on it. ``backend``: the word for ``--gpu``, None for the processor."""

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
    now = HostBudget.of(machine).now
    main = MemoryBudget("main memory", int(now) if isfinite(now) else limit or 0)
    budgets = gpu_budgets(machine, environ)
    names = [budget.gpu.name for budget in budgets]
    found = []
    for gpu, free in ((budget.gpu, int(budget.free)) for budget in budgets):
        if not gpu.unified:
            label = f"{gpu.name} #{gpu.index}" if names.count(gpu.name) > 1 else gpu.name
            found.append(MemoryBudget(label, free, True, gpu.backend))
        elif is_worthwhile(gpu):
            main = replace(main, name=f"{gpu.name} (unified memory)", accelerated=True, backend=gpu.backend)
    left_out = (gpu for gpu in machine.gpus if all(budget.gpu is not gpu for budget in budgets))
    notes = [
        f"{gpu.name} is left out: no engine can use it here (see doctor)"
        if gpu.backend is None
        else f"{gpu.name} is left out: nothing tells its memory, or a variable hides it"
        for gpu in left_out
    ]
    return (*sorted(found, key=lambda budget: -budget.room), main), tuple(notes)


def describe_budgets(budgets: tuple[MemoryBudget, ...], limit: int | None) -> str:
    """Return the memories as a phrase, after "there are"."""
    each = " and ".join(f"{budget.room / 1e9:.1f} GB in {budget.name}" for budget in budgets)
    return each + ("" if limit is None else f", and {limit / 1e9:.1f} GB allowed")
