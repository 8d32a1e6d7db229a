"""How much memory engines take, and whether the kernel has killed for want of it. Blocks; for threads."""

from __future__ import annotations

from pathlib import Path

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
    """Return what processes can still take without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)
