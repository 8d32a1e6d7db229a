"""How much memory engines take, and whether the kernel has killed for want of it. Blocks; for threads."""

from __future__ import annotations

from pathlib import Path

from llamafile_mgr.machine.cgroup import group_directories, read_limits
from llamafile_mgr.machine.reading import read_text

__all__ = ["available_bytes", "count_oom_kills", "resident_bytes"]

_CGROUP = Path("/sys/fs/cgroup")
_EVENTS = ("memory.events", "memory/memory.oom_control")


def count_oom_kills() -> int:
    """Return how often the kernel's out-of-memory killer struck, in our cgroup or, failing that, anywhere."""
    for path in (*(_CGROUP / name for name in _EVENTS), Path("/proc/vmstat")):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, number = line.partition(" ")
            if name == "oom_kill" and number.strip().isdigit():
                return int(number)
    return 0


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants, 0 when it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        return sum(int(p.memory_info().rss) for p in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0


def available_bytes() -> int:
    """Return what processes of ours can still take without swapping; a cgroup's limit counts."""
    import psutil

    available = int(psutil.virtual_memory().available)
    cgroup = read_text("/proc/self/cgroup")
    if cgroup is None:
        return available
    limits = read_limits(group_directories(cgroup, read_text("/proc/self/mountinfo") or ""), read_text)
    if limits.memory_limit is None:
        return available
    return max(0, min(available, limits.memory_limit - (limits.memory_usage or 0)))
