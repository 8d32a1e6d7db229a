"""Linux: reads ``/proc`` and ``/sys`` and puts one ``Machine`` together."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Collection, Mapping
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
from llamafile_mgr.machine.reading import read_text

_SYS = Path("/sys")
_LINE = re.compile(r"^(\w[\w()]*):\s+([0-9]{1,20})\s*(kB)?\s*$", re.MULTILINE)
#: A word in a cgroup path -> the container engine that put it there.
_ENGINES = (
    ("kubepods", "kubernetes"),
    ("libpod", "podman"),
    ("docker", "docker"),
    ("containerd", "containerd"),
    ("lxc", "lxc"),
)


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
    own, small = (topology.performance, topology.efficiency) if topology is not None else ((), ())
    return Cpu(
        model=info.model,
        physical_cores=len(own) if topology is not None else info.cores or library.cpu_count(logical=False),
        logical_cpus=info.logical_cpus or sum(len(core) for core in (*own, *small)) or None,
        efficiency_cores=len(small) if topology is not None else None,
        features=info.features,
        quota=limits.quota,
        cpuset=len(allowed) if allowed else None,
        cpuset_cores=cores_among(topology, allowed) or None if topology is not None and allowed else None,
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


def parse_meminfo(text: str) -> dict[str, int]:
    """Return the fields of ``/proc/meminfo`` in bytes."""
    return {match[1]: int(match[2]) * (1024 if match[3] else 1) for match in _LINE.finditer(text)}


def parse_load(text: str) -> float | None:
    """Return the load of the last minute from ``/proc/loadavg``."""
    first = text.split(maxsplit=1)[:1]
    try:
        load = float(first[0]) if first else math.nan
    except ValueError:
        return None
    return load if math.isfinite(load) and load >= 0 else None


def pretty_name(os_release: str) -> str | None:
    """Return the distribution with its version from ``/etc/os-release``."""
    match = re.search(r"^PRETTY_NAME=(.*)$", os_release, re.MULTILINE)
    return match[1].strip().strip("\"'") or None if match else None


def wsl_version(os_release_of_kernel: str) -> int | None:
    """Return 1 or 2 inside the Windows Subsystem for Linux, from ``/proc/sys/kernel/osrelease``.

    WSL 1 says ``4.4.0-19041-Microsoft``, WSL 2 ``5.15.90.1-microsoft-standard-WSL2``; a kernel that
    somebody built for WSL 2 keeps ``WSL2`` in its name by convention.
    """
    text = os_release_of_kernel.lower()
    if "microsoft" not in text and "wsl" not in text:
        return None
    return 2 if "wsl2" in text or "microsoft-standard" in text else 1


def container_name(marks: Collection[str], cgroup: str, environment: Mapping[str, str]) -> str | None:
    """Return the engine whose container this is, ``None`` outside.

    ``marks``: which of ``/.dockerenv`` and ``/run/.containerenv`` exist. ``cgroup``: ``/proc/self/cgroup``.
    ``environment``: of this process; ``container`` is set by systemd-nspawn, podman and LXC.
    """
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if "/run/.containerenv" in marks:
        return "podman"
    if "/.dockerenv" in marks:
        return "docker"
    named = environment.get("container")
    if named and re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", named):
        return named
    return next((engine for word, engine in _ENGINES if word in cgroup), None)
