"""Linux: ``/proc/meminfo``, ``/proc/loadavg`` and the words that tell containers and WSL apart."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

__all__ = ["container_name", "parse_load", "parse_meminfo", "pretty_name", "wsl_version"]

_LINE = re.compile(r"^(\w[\w()]*):\s+([0-9]{1,20})\s*(kB)?\s*$", re.MULTILINE)
#: A word in a cgroup path -> the container engine that put it there.
_ENGINES = (
    ("kubepods", "kubernetes"),
    ("libpod", "podman"),
    ("docker", "docker"),
    ("containerd", "containerd"),
    ("lxc", "lxc"),
)


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
