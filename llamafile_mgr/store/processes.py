"""Who holds something: a process, told apart from a later one with the same number."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import asdict, dataclass

__all__ = ["Holder", "is_alive", "is_of_this_computer", "myself"]

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
    return Holder(pid=os.getpid(), started_at=_start_of(os.getpid()) or 0.0, host=_host(), purpose=purpose)


def is_alive(holder: Holder) -> bool:
    """Tell whether that very process still runs; one of another computer counts as running."""
    if holder.host != _host():
        return True
    started_at = _start_of(holder.pid)
    if started_at is None:
        return False
    return holder.started_at == 0.0 or abs(started_at - holder.started_at) < _SAME_START_SECONDS


def is_of_this_computer(holder: Holder) -> bool:
    """Tell whether the process runs where we can see it."""
    return holder.host == _host()


@functools.cache
def _host() -> str:
    return socket.gethostname()


def _start_of(pid: int) -> float | None:
    """Return when a process started, None when there is none of this number."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
