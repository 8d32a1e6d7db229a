"""Locks between processes: the kernel's where it really locks, else a file that names its holder.

Some network file systems accept ``flock`` and lock nothing. Whether this one does is found out by
locking one file twice; ``Locks.notice`` says so when it does not.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol

import filelock

from llamafile_mgr.errors import StoreError
from llamafile_mgr.files import store_errors, temporary_name
from llamafile_mgr.processes import Holder, is_alive, myself

_POLL_SECONDS = 0.05
#: For what takes minutes, and tells meanwhile how far it is.
_SLOW_POLL_SECONDS = 0.2

#: Called while others hold a lock, with the seconds so far.
Waiting = Callable[[float], None]


class LockBusyError(StoreError):
    """Another process holds the lock."""


class Lock(Protocol):
    """What a lock can do; a dead holder never blocks."""

    def acquire(self) -> None:
        """Take it.

        Raises:
            LockBusyError: another process has it.
        """

    def release(self) -> None:
        """Give it back."""


class KernelLock:
    """A lock that the kernel drops when its holder dies."""

    def __init__(self, path: Path) -> None:
        self._lock = filelock.FileLock(path, mode=0o600)

    def acquire(self) -> None:
        """Take it, or raise ``LockBusyError``."""
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise LockBusyError("another process is at work here") from None

    def release(self) -> None:
        """Give it back."""
        self._lock.release()


class RecordLock:
    """A lock made of a file that only one process can create; it names its holder."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_suffix(".holder")

    def acquire(self) -> None:
        """Take it, from a dead holder too, or raise ``LockBusyError``."""
        for _ in range(2):
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                self._drop_dead_holder()
                continue
            with open(descriptor, "w", encoding="utf-8") as stream:
                json.dump(myself("lock").json(), stream)
            return
        raise LockBusyError("another process is at work here")

    def release(self) -> None:
        """Give it back."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _drop_dead_holder(self) -> None:
        try:
            text = self._path.read_text(encoding="utf-8")
            holder = Holder(**json.loads(text)) if text else None
            young = time.time() - self._path.stat().st_mtime < 5
        except FileNotFoundError:
            return
        except (ValueError, TypeError, RecursionError):
            holder, young = None, False
        if (holder is None and young) or (holder is not None and is_alive(holder)):
            raise LockBusyError("another process is at work here")
        # Renamed before it is removed: of two processes that find it dead, one gets it.
        aside = temporary_name(self._path.parent)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._path, aside)
            aside.unlink()


def really_locks(directory: Path, make: Callable[[Path], Lock] = KernelLock) -> bool:
    """Find out whether a lock in ``directory`` keeps a second one out."""
    probe = temporary_name(directory)
    first, second = make(probe), make(probe)
    try:
        first.acquire()
    except (NotImplementedError, OSError):
        return False
    try:
        second.acquire()
    except LockBusyError:
        return True
    except (NotImplementedError, OSError):
        return False
    else:
        second.release()
        return False
    finally:
        first.release()
        with contextlib.suppress(OSError):
            probe.unlink()


class Locks:
    """The locks of one directory, all of the kind that works there."""

    def __init__(self, directory: Path, make: Callable[[Path], Lock] = KernelLock) -> None:
        self._make = make if really_locks(directory, make) else RecordLock
        self.notice: str | None = None
        if self._make is not make:
            self.notice = (
                f"the file system of {directory} does not lock files; "
                "files that name their holder are used instead"
            )

    def lock(self, path: Path) -> Lock:
        """Return the lock of this path, not yet taken."""
        return self._make(path)

    @contextlib.contextmanager
    def held(self, path: Path, *, seconds: float = 0.0, waiting: Waiting | None = None) -> Iterator[None]:
        """Hold the lock of ``path``. ``seconds``: how long to wait for others, ``math.inf`` for ever.

        ``waiting`` is called while others have it, with the seconds so far; what it raises ends the waiting.

        Raises:
            LockBusyError: it stayed busy.
            StoreError: the file cannot be made.
        """
        lock = self.lock(path)
        for waited in _attempts(lock, path, seconds):
            if waiting is not None:
                waiting(waited)
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            lock.release()

    @contextlib.asynccontextmanager
    async def held_by_task(self, path: Path, waiting: Waiting) -> AsyncIterator[None]:
        """Hold the lock of ``path`` without blocking the loop, however long others have it; see ``held``."""
        import asyncio  # here, so that commands which only read the store do not load it

        lock = self.lock(path)
        for waited in _attempts(lock, path, math.inf):
            waiting(waited)
            await asyncio.sleep(_SLOW_POLL_SECONDS)
        try:
            yield
        finally:
            lock.release()


def _attempts(lock: Lock, path: Path, seconds: float) -> Iterator[float]:
    """Yield the seconds waited so far each time that ``lock`` is busy; end when it is ours."""
    began = time.monotonic()
    while True:
        try:
            with store_errors(path):
                lock.acquire()
            return
        except LockBusyError:
            waited = time.monotonic() - began
            if waited >= seconds:
                since = f" for {seconds:.0f} seconds" if seconds else ""
                raise LockBusyError(
                    f"another llamafile-mgr has been at work here{since}",
                    cause=f"it holds {path}",
                    hint="wait for it, or end it",
                ) from None
        yield waited
