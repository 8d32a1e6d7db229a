"""Linux: reads ``/proc`` and ``/sys`` and puts one ``Machine`` together."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from llamafile_mgr.machine import library
from llamafile_mgr.machine.cgroup import Limits, group_directories, read_limits
from llamafile_mgr.machine.hardware import Cpu, Machine, Memory, System
from llamafile_mgr.machine.linux_cpu import (
    CpuInfo,
    Topology,
    cores_among,
    parse_cpu_list,
    parse_cpuinfo,
    read_topology,
)
from llamafile_mgr.machine.linux_gpu import find_gpus
from llamafile_mgr.machine.linux_memory import (
    container_name,
    parse_load,
    parse_meminfo,
    pretty_name,
    wsl_version,
)
from llamafile_mgr.machine.reading import read_text

__all__ = ["build_cpu", "build_memory", "detect_linux"]

_SYS = Path("/sys")


def detect_linux(architecture: str | None) -> Machine:
    """Return what ``/proc``, ``/sys`` and the GPU tools tell of this computer."""
    cgroup = read_text("/proc/self/cgroup") or ""
    limits = read_limits(group_directories(cgroup, read_text("/proc/self/mountinfo") or ""), read_text)
    marks = [mark for mark in ("/.dockerenv", "/run/.containerenv") if Path(mark).exists()]
    return Machine(
        system=System.LINUX,
        system_version=pretty_name(read_text("/etc/os-release") or read_text("/usr/lib/os-release") or ""),
        kernel=platform.release() or None,
        architecture=architecture,
        cpu=build_cpu(
            parse_cpuinfo(read_text("/proc/cpuinfo") or ""),
            _read_topology(),
            limits,
            os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        ),
        memory=build_memory(parse_meminfo(read_text("/proc/meminfo") or ""), limits),
        numa_nodes=_numa_nodes(),
        load=parse_load(read_text("/proc/loadavg") or ""),
        gpus=find_gpus(),
        container=container_name(marks, cgroup, os.environ),
        wsl=wsl_version(read_text("/proc/sys/kernel/osrelease") or ""),
    )


def build_cpu(
    info: CpuInfo, topology: Topology | None, limits: Limits, affinity: set[int] | None = None
) -> Cpu:
    """Put together what the files say; the set that we may run on is the smaller of mask and cgroup's."""
    allowed = frozenset(affinity) if affinity is not None else None
    if limits.cpuset:
        group = parse_cpu_list(limits.cpuset)
        allowed = group if allowed is None else (allowed & group or allowed)
    logical = info.logical_cpus
    if topology is None:
        return Cpu(
            model=info.model,
            physical_cores=info.cores or library.core_count(),
            logical_cpus=logical,
            features=info.features,
            quota=limits.quota,
            cpuset=len(allowed) if allowed else None,
        )
    cpus = sum(len(core) for core in (*topology.performance, *topology.efficiency))
    return Cpu(
        model=info.model,
        physical_cores=len(topology.performance),
        logical_cpus=logical or cpus,
        efficiency_cores=len(topology.efficiency),
        features=info.features,
        quota=limits.quota,
        cpuset=len(allowed) if allowed else None,
        cpuset_cores=(cores_among(topology, allowed) or None) if allowed else None,
    )


def build_memory(meminfo: Mapping[str, int], limits: Limits) -> Memory:
    """Put together ``/proc/meminfo`` and the cgroup's limit."""
    return Memory(
        total=meminfo.get("MemTotal"),
        available=meminfo.get("MemAvailable", meminfo.get("MemFree")),
        cgroup_limit=limits.memory_limit,
        cgroup_usage=limits.memory_usage,
        swap_total=meminfo.get("SwapTotal"),
        swap_free=meminfo.get("SwapFree"),
    )


def _read_topology() -> Topology | None:
    siblings: dict[int, str] = {}
    capacities: dict[int, str] = {}
    for entry in (_SYS / "devices/system/cpu").glob("cpu[0-9]*"):
        if not re.fullmatch(r"cpu\d+", entry.name):
            continue
        cpu = int(entry.name[3:])
        # The first name is the newer one; a CPU that is switched off has neither.
        text = read_text(entry / "topology/core_cpus_list") or read_text(
            entry / "topology/thread_siblings_list"
        )
        if text:
            siblings[cpu] = text
        capacity = read_text(entry / "cpu_capacity")
        if capacity:
            capacities[cpu] = capacity
    small = [read_text(_SYS / f"devices/{kind}/cpus") for kind in ("cpu_atom", "cpu_lowpower")]
    return read_topology(siblings, capacities, ",".join(text.strip() for text in small if text))


def _numa_nodes() -> int | None:
    text = read_text(_SYS / "devices/system/node/online")
    return len(parse_cpu_list(text)) or None if text else None
