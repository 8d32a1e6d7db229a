"""One process at a time, on file systems that lock and on those that do not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from llamafile_mgr.errors import NotReadyError, StoreError
from llamafile_mgr.locks import KernelLock, LockBusyError, Locks, RecordLock, really_locks

ROOT = Path(__file__).parent.parent


class LyingLock:
    """A lock that everybody gets, as on some network file systems."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def acquire(self) -> None:
        """Get it."""

    def release(self) -> None:
        """Give it back."""


class RefusingLock(LyingLock):
    """A lock on a file system that knows none."""

    def acquire(self) -> None:
        raise OSError(38, "Function not implemented")


def test_a_file_system_that_does_not_lock_is_detected_and_said(tmp_path: Path) -> None:
    assert really_locks(tmp_path, KernelLock)
    assert Locks(tmp_path).notice is None
    for make in (LyingLock, RefusingLock):
        assert not really_locks(tmp_path, make)
        locks = Locks(tmp_path, make)
        assert locks.notice is not None
        assert "does not lock files" in locks.notice
        assert isinstance(locks.lock(tmp_path / "x.lock"), RecordLock)


def test_a_lock_that_names_its_holder_keeps_others_out_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    lock = RecordLock(path)
    lock.acquire()
    with pytest.raises(LockBusyError):
        RecordLock(path).acquire()
    lock.release()
    code = (
        "import sys, os; from pathlib import Path; from llamafile_mgr.locks import RecordLock\n"
        "RecordLock(Path(sys.argv[1])).acquire(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True)
    assert path.with_suffix(".holder").exists()
    RecordLock(path).acquire()
    path.with_suffix(".holder").write_text("nonsense")
    RecordLock(path).acquire()


@pytest.mark.parametrize("make", [KernelLock, RecordLock])
def test_who_waits_is_told_and_gets_the_lock_when_it_is_free(tmp_path: Path, make: type[KernelLock]) -> None:
    path, seen = tmp_path / "x.lock", list[float]()
    first = make(path)
    first.acquire()

    def give_back_at_the_third_look(waited: float) -> None:
        seen.append(waited)
        if len(seen) == 3:
            first.release()

    held = Locks(tmp_path, make).held(path, seconds=30, waiting=give_back_at_the_third_look)
    with held, pytest.raises(LockBusyError):
        make(path).acquire()
    assert len(seen) == 3
    assert seen == sorted(seen)
    make(path).acquire()


def test_waiting_ends_in_time_at_once_or_when_the_waiter_says_so(tmp_path: Path) -> None:
    path, locks = tmp_path / "x.lock", Locks(tmp_path)

    def give_up(_: float) -> None:
        raise NotReadyError("nobody waits any more")

    with locks.held(path):
        with pytest.raises(LockBusyError, match=r"has been at work here$") as at_once, locks.held(path):
            pass
        with pytest.raises(LockBusyError, match=r"for 0 seconds$"), locks.held(path, seconds=0.1):
            pass
        with pytest.raises(NotReadyError), locks.held(path, seconds=30, waiting=give_up):
            pass
    assert str(path) in str(at_once.value.cause)
    with locks.held(path):
        pass


def test_a_lock_that_cannot_be_made_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"), Locks(tmp_path).held(tmp_path / "file" / "x.lock"):
        pass


async def test_a_task_waits_without_stopping_others(tmp_path: Path) -> None:
    path, order = tmp_path / "x.lock", list[str]()
    locks = Locks(tmp_path)
    looked = asyncio.Event()

    async def second() -> None:
        async with locks.held_by_task(path, lambda _: looked.set()):
            order.append("second")

    with locks.held(path):
        task = asyncio.create_task(second())
        await looked.wait()
        order.append("first")
    await task
    assert order == ["first", "second"]
