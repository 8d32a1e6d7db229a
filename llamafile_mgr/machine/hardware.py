"""What a computer is, as values. A field that is ``None`` is unknown, never a guess.

Sizes are bytes. Memory that a GPU shares with the processor is marked ``unified`` and is a part of
``Memory``, never an addition to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class System(StrEnum):
    """The operating systems that we know how to look at; the rest is ``OTHER``."""

    LINUX = "linux"
    MACOS = "macos"
    WINDOWS = "windows"
    OTHER = "other"


#: The vendor of a GPU whose maker is not in the table of ``vendors.py``.
OTHER_VENDOR = "other"


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor, and how much of it this process may use.

    ``physical_cores``: performance cores alone, neither efficiency cores nor hyper-threads.
    ``features``: lower-case names of instruction sets, among them ``avx``, ``avx2``, ``fma``,
    ``f16c``, ``avx512f``, ``avx512_vnni``, ``neon``, ``dotprod``; ``None`` when nothing tells.
    ``quota``: processors' worth of time a second that the cgroup grants.
    ``cpuset``: logical CPUs that this process may run on. ``cpuset_cores``: the physical cores among
    them, efficiency cores left out unless there is nothing else.
    """

    model: str | None = None
    physical_cores: int | None = None
    logical_cpus: int | None = None
    efficiency_cores: int | None = None
    features: tuple[str, ...] | None = None
    quota: float | None = None
    cpuset: int | None = None
    cpuset_cores: int | None = None

    @property
    def usable_cores(self) -> int:
        """Return how many threads a compute pool should have: never more than cores, set or quota."""
        cores = self.physical_cores or self.logical_cpus
        limits = [n for n in (cores, self.cpuset, self.cpuset_cores) if n]
        if self.quota is not None:
            limits.append(math.floor(self.quota))
        return max(1, min(limits, default=1))

    def has(self, feature: str) -> bool | None:
        """Return whether the processor has this instruction set, ``None`` when nothing tells."""
        return None if self.features is None else feature in self.features


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory in bytes.

    ``available``: what a new process can take without swapping, as the kernel estimates it.
    ``cgroup_limit``, ``cgroup_usage``: of the cgroup level with the least memory left; usage leaves out file
    cache that can be dropped.
    """

    total: int | None = None
    available: int | None = None
    cgroup_limit: int | None = None
    cgroup_usage: int | None = None
    swap_total: int | None = None
    swap_free: int | None = None

    @property
    def ceiling(self) -> int | None:
        """Return the most that could ever be used here: the smaller of memory and cgroup limit."""
        return min((n for n in (self.total, self.cgroup_limit) if n is not None), default=None)

    @property
    def usable(self) -> int | None:
        """Return what can be taken now, within the cgroup's limit; ``None`` when nothing tells."""
        within = None if self.cgroup_limit is None else max(0, self.cgroup_limit - (self.cgroup_usage or 0))
        known = [size for size in (self.available, within) if size is not None]
        return min(known if self.ceiling is None else [*known, self.ceiling]) if known else None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    ``vendor``: a name of the table in ``vendors.py``, or ``OTHER_VENDOR``. ``index``: its number in the order
    of its backend's hiding variable.
    ``memory_total``, ``memory_free``: of a dedicated GPU its own memory; of a ``unified`` one the share of
    main memory that it may use, where something tells. ``compute_capability``: as its vendor counts, such as
    ``8.9`` or ``gfx1100``. ``backend``: the word for ``--gpu``, ``None`` when no engine can use it.
    """

    vendor: str
    name: str
    index: int | None = None
    memory_total: int | None = None
    memory_free: int | None = None
    unified: bool = False
    compute_capability: str | None = None
    driver: str | None = None
    backend: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """One snapshot of a computer.

    ``architecture``: ``x86_64``, ``arm64`` or the system's own word for others; under Rosetta it is
    the real one, ``arm64``. ``load``: runnable tasks, averaged over a minute.
    ``container``: ``docker``, ``podman``, ``kubernetes``, ``lxc`` or another word, ``None`` outside.
    ``wsl``: 1 or 2 inside the Windows Subsystem for Linux. ``rosetta``: this process is translated.
    """

    system: System
    system_version: str | None = None
    kernel: str | None = None
    architecture: str | None = None
    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    numa_nodes: int | None = None
    load: float | None = None
    gpus: tuple[Gpu, ...] = ()
    container: str | None = None
    wsl: int | None = None
    rosetta: bool = False

    def memory_of(self, gpu: Gpu) -> int | None:
        """Return the bytes that ``gpu`` can take now; a unified GPU takes them from ``memory``."""
        if not gpu.unified:
            return gpu.memory_free if gpu.memory_free is not None else gpu.memory_total
        shares = (self.memory.usable, gpu.memory_total, gpu.memory_free)
        return min((share for share in shares if share is not None), default=None)
