"""Locks between processes: the kernel's where it really locks, else a file that names its holder.

Some network file systems accept ``flock`` and lock nothing. Whether this one does is found out by
locking one file twice; ``Locks.notice`` says so when it does not.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import filelock

from llamafile_mgr.errors import StoreError
from llamafile_mgr.store.files import store_errors, temporary_name
from llamafile_mgr.store.processes import Holder, is_alive, myself

__all__ = ["Lock", "LockBusyError", "Locks", "really_locks"]

_POLL_SECONDS = 0.05


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
        except (ValueError, TypeError):
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
    def held(self, path: Path, *, seconds: float = 60.0) -> Iterator[None]:
        """Hold the lock of ``path``, waiting up to ``seconds`` for others.

        Raises:
            StoreError: it stayed busy, or the file cannot be made.
        """
        lock = self.lock(path)
        deadline = time.monotonic() + seconds
        while True:
            try:
                with store_errors(path):
                    lock.acquire()
                break
            except LockBusyError:
                if time.monotonic() >= deadline:
                    raise StoreError(
                        f"the store has been busy for {seconds:.0f} seconds",
                        cause=f"another llamafile-mgr holds {path}",
                        hint="wait for it, or end it",
                    ) from None
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            lock.release()
