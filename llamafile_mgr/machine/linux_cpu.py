"""Linux: what ``/proc/cpuinfo`` and ``/sys/devices/system/cpu`` tell about the processor.

Parsers over text; ``linux.py`` reads the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llamafile_mgr.machine.features import select_features
from llamafile_mgr.machine.reading import whole_number

#: Below this share of the largest ``cpu_capacity`` a core counts as an efficiency core. Arm's middle cores
#: (0.6 to 0.9 of the largest) work well in one pool with the large ones, the small ones (0.2 to 0.53) do not.
_PERFORMANCE_SHARE = 0.55


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """What ``/proc/cpuinfo`` tells. ``cores``: distinct (package, core) pairs, where it names them."""

    model: str | None
    features: tuple[str, ...] | None
    logical_cpus: int | None
    cores: int | None


@dataclass(frozen=True, slots=True)
class Topology:
    """The cores as sets of logical CPUs."""

    performance: tuple[frozenset[int], ...]
    efficiency: tuple[frozenset[int], ...]


def parse_cpuinfo(text: str) -> CpuInfo:
    """Read ``/proc/cpuinfo`` of x86, Arm, RISC-V, POWER or s390."""
    model: str | None = None
    flags: list[str] | None = None
    cores: set[tuple[str, str]] = set()
    count = 0
    package = ""
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "processor" and value.isdigit():
            count += 1
            package = ""
        elif key in ("model name", "cpu model", "uarch") or (key == "cpu" and not value.isdigit()):
            model = model or value or None
        elif key in ("hardware", "model") and not value.isdigit():
            # Arm boards name themselves once, after the last processor.
            model = model or value or None
        elif key in ("flags", "features"):
            flags = (
                value.lower().split() if flags is None else [f for f in flags if f in value.lower().split()]
            )
        elif key == "physical id":
            package = value
        elif key == "core id":
            cores.add((package, value))
    features = None if flags is None else select_features(flags)
    return CpuInfo(model, features, count or None, len(cores) or None)


def parse_cpu_list(text: str) -> frozenset[int]:
    """Read the kernel's list form, ``0-3,8,10-11``; what cannot be read is left out."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.strip().partition("-")
        start = whole_number(first)
        end = whole_number(last) if dash else start
        if start is not None and end is not None and start <= end < start + 65536:
            found.update(range(start, end + 1))
    return frozenset(found)


def read_topology(
    siblings: Mapping[int, str],
    capacities: Mapping[int, str] | None = None,
    efficiency_list: str | None = None,
) -> Topology | None:
    """Return the cores; ``None`` when no CPU names its siblings.

    ``siblings``: CPU -> its ``core_cpus_list`` (or ``thread_siblings_list``).
    ``capacities``: CPU -> its ``cpu_capacity``, on Arm.
    ``efficiency_list``: ``/sys/devices/cpu_atom/cpus`` and ``cpu_lowpower/cpus``, joined by a comma,
    on hybrid Intel processors.
    """
    cores = {frozenset(parse_cpu_list(text) | {cpu}) for cpu, text in siblings.items()}
    if not cores:
        return None
    small = parse_cpu_list(efficiency_list or "")
    if not small and capacities:
        read = {cpu: whole_number(text) for cpu, text in capacities.items()}
        numbers = {cpu: number for cpu, number in read.items() if number is not None}
        top = max(numbers.values(), default=0)
        small = frozenset(cpu for cpu, n in numbers.items() if n < top * _PERFORMANCE_SHARE)
    ordered = sorted(cores, key=min)
    performance = tuple(core for core in ordered if not core & small)
    if not performance:
        return Topology(tuple(ordered), ())
    return Topology(performance, tuple(core for core in ordered if core & small))


def cores_among(topology: Topology, cpus: Iterable[int]) -> int:
    """Return the physical cores in a set of logical CPUs, efficiency cores only where it has no other."""
    allowed = frozenset(cpus)
    performance = sum(1 for core in topology.performance if core & allowed)
    return performance or sum(1 for core in topology.efficiency if core & allowed)
