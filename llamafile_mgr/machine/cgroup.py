"""Linux control groups, both versions: what this process may use of CPU and memory.

A limit anywhere between our group and the root of what we see binds us, so every level is looked at.
Parsers take texts; ``read_limits`` takes the function that reads a file, so that tests give it a table.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

from llamafile_mgr.machine.reading import whole_number

#: Version 1 says "no limit" with the largest page-aligned number; anything this large is none.
_NO_LIMIT = 1 << 60

#: Controller -> files with its limits, that with its usage, and the word for file cache in ``memory.stat``.
_MEMORY = {
    "": (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    "memory": (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}
#: Controller -> files with the CPUs that it grants.
_CPUSETS = {"": ("cpuset.cpus.effective",), "cpuset": ("cpuset.effective_cpus", "cpuset.cpus")}

Reader = Callable[[str], "str | None"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the cgroups grant. ``quota``: CPUs. Sizes in bytes, of the level with the least memory left."""

    quota: float | None = None
    memory_limit: int | None = None
    memory_usage: int | None = None
    cpuset: str | None = None


def group_directories(cgroup: str, mountinfo: str) -> dict[str, tuple[str, ...]]:
    """Return controller -> directories from our group up to its mount point.

    ``cgroup``: ``/proc/self/cgroup``; ``mountinfo``: ``/proc/self/mountinfo``. The controller of version 2
    is called ``""``. Inside a container the path of our group may lie outside of what is mounted (the host's
    path, no cgroup namespace); then the mount point itself is our group.
    """
    mounts = _mounts(mountinfo)
    found: dict[str, tuple[str, ...]] = {}
    for line in cgroup.splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        for controller in parts[1].split(",") if parts[1] else [""]:
            if controller in mounts:
                root, point = mounts[controller]
                found[controller] = _levels(parts[2], root, point)
    return found


def parse_cpu_max(text: str) -> float | None:
    """Return the CPUs that ``cpu.max`` grants, ``None`` for ``max``."""
    parts = text.split()
    quota = whole_number(parts[0]) if parts else None
    period = whole_number(parts[1]) if len(parts) > 1 else 100_000
    return quota / period if quota and period else None


def read_limits(directories: dict[str, tuple[str, ...]], read: Reader) -> Limits:
    """Return the tightest limits over all levels of both versions."""
    unified = directories.get("", ())
    quotas = [parse_cpu_max(read(f"{d}/cpu.max") or "") for d in unified]
    quotas += [_quota_v1(d, read) for d in directories.get("cpu", ())]
    levels = [(d, files) for controller, files in _MEMORY.items() for d in directories.get(controller, ())]
    budgets = [budget for d, files in levels if (budget := _memory(d, files, read)) is not None]
    tightest = min(budgets, key=lambda budget: budget[0] - (budget[1] or 0), default=(None, None))
    return Limits(
        quota=min((q for q in quotas if q is not None), default=None),
        memory_limit=tightest[0],
        memory_usage=tightest[1],
        cpuset=_cpuset(directories, read),
    )


def _mounts(mountinfo: str) -> dict[str, tuple[str, str]]:
    mounts: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        left, dash, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if not dash or len(fields) < 5 or not kind:
            continue
        root, point = _unescape(fields[3]), _unescape(fields[4])
        if kind[0] == "cgroup2":
            mounts.setdefault("", (root, point))
        elif kind[0] == "cgroup" and len(kind) > 2:
            for option in kind[2].split(","):
                mounts.setdefault(option, (root, point))
    return mounts


def _unescape(text: str) -> str:
    """Undo the octal escapes of mount tables (space, tab, newline, backslash)."""
    return re.sub(r"\\(040|011|012|134)", lambda code: chr(int(code[1], 8)), text)


def _levels(path: str, root: str, point: str) -> tuple[str, ...]:
    if root != "/" and path != root and not path.startswith(root.rstrip("/") + "/"):
        return (point,)
    relative = path if root == "/" else path[len(root.rstrip("/")) :]
    parts = [part for part in relative.split("/") if part]
    if ".." in parts:
        return (point,)
    return tuple(posixpath.join(point, *parts[:n]) for n in range(len(parts), -1, -1))


def _number(text: str | None) -> int | None:
    number = whole_number(text)
    return number if number is not None and number < _NO_LIMIT else None


def _quota_v1(directory: str, read: Reader) -> float | None:
    quota = _number(read(f"{directory}/cpu.cfs_quota_us"))
    period = _number(read(f"{directory}/cpu.cfs_period_us"))
    return quota / period if quota and period else None


def _memory(
    directory: str, files: tuple[tuple[str, ...], str, str], read: Reader
) -> tuple[int, int | None] | None:
    """Return the limit and the usage of one level, None where it has no limit."""
    bounds, usage, cache = files
    numbers = [_number(read(f"{directory}/{name}")) for name in bounds]
    limit = min((number for number in numbers if number is not None), default=None)
    if limit is None:
        return None
    used = _number(read(f"{directory}/{usage}"))
    return limit, _without_cache(used, read(f"{directory}/memory.stat"), cache)


def _without_cache(used: int | None, stat: str | None, key: str) -> int | None:
    """Take off the file cache that the kernel drops first, as Kubernetes' working set does."""
    if used is None:
        return None
    for line in (stat or "").splitlines():
        name, _, value = line.partition(" ")
        cache = whole_number(value) if name == key else None
        if cache is not None:
            return max(0, used - cache)
    return used


def _cpuset(directories: dict[str, tuple[str, ...]], read: Reader) -> str | None:
    texts = (
        read(f"{directory}/{name}")
        for controller, names in _CPUSETS.items()
        for directory in directories.get(controller, ())[:1]
        for name in names
    )
    return next((text.strip() for text in texts if text and text.strip()), None)
