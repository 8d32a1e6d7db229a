"""Watching the services that `exec` and `endpoint` start in a home, from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil

__all__ = ["await_nobody", "engines", "services", "wait_until"]


def _processes(home: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _is_of(process, home)]


def _is_of(process: psutil.Process, home: Path) -> bool:
    try:
        variables = process.environ()
        alive = process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    ours = variables.get("LLAMAFILE_MGR_HOME") == str(home)
    return alive and (ours or variables.get("HOME", "").startswith(str(home / "state")))


def _argv(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def services(home: Path) -> list[psutil.Process]:
    """Return the services of this home that were started for their users."""
    return [process for process in _processes(home) if "--leased" in _argv(process)]


def engines(home: Path) -> list[psutil.Process]:
    """Return the embedded engines that run in this home."""
    return [
        process for process in _processes(home) if any("engines.embedded" in word for word in _argv(process))
    ]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait until something holds; fails when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def await_nobody(home: Path) -> None:
    """Wait until neither a service nor an engine is left in this home."""
    wait_until(lambda: not services(home) and not engines(home), "somebody is left")
