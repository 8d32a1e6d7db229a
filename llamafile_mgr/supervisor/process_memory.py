"""How much memory engines take, and whether the kernel has killed for want of it. Blocks; for threads."""

from __future__ import annotations

import contextlib
from pathlib import Path

from llamafile_mgr.machine.cgroup import group_directories, read_limits
from llamafile_mgr.machine.reading import read_text

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


def resident_bytes(pid: int, *, alone: bool = False) -> int:
    """Return the resident memory of a process and its descendants, or ``alone``; 0 when it is gone.

    What several of them map counts in each: the kernel's proportional figures cost 2 ms for each gigabyte
    that is mapped, and those of an engine would change when another one that shares its weights ends.
    """
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *(() if alone else process.children(recursive=True))):
            with contextlib.suppress(psutil.Error):  # it may end meanwhile, and the others still weigh
                total += int(each.memory_info().rss)
    return total


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
