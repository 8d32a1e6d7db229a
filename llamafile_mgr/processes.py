"""A process, told apart from a later one with the same number; who holds something."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import asdict, dataclass

#: Start times come in ticks of 10 ms; two processes of one number differ by far more.
_SAME_START_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Holder:
    """One process: its number, when it started (Unix time), its computer and its purpose."""

    pid: int
    started_at: float
    host: str
    purpose: str

    def json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)


def myself(purpose: str) -> Holder:
    """Describe the calling process."""
    return Holder(pid=os.getpid(), started_at=start_of(os.getpid()) or 0.0, host=_host(), purpose=purpose)


def is_alive(holder: Holder) -> bool:
    """Tell whether that very process still runs; one of another computer counts as running."""
    return holder.host != _host() or is_running(holder.pid, holder.started_at or None)


def is_running(pid: int, started_at: float | None) -> bool:
    """Tell whether ``pid`` lives and is the process that started then; an unknown time counts as agreeing."""
    now = start_of(pid)
    return now is not None and (started_at is None or abs(now - started_at) < _SAME_START_SECONDS)


def is_of_this_computer(holder: Holder) -> bool:
    """Tell whether the process runs where we can see it."""
    return holder.host == _host()


@functools.cache
def _host() -> str:
    return socket.gethostname()


def start_of(pid: int) -> float | None:
    """Return when a process started (Unix time), None when none of this number lives."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
