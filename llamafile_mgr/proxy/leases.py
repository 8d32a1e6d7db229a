"""Who uses this ``serve``: leases over the control channel, which a user cannot forget to give back.

A lease lasts as long as its connection and, when its user named a process, as long as that process too: so
`exec` can become the command that it runs, and a user that is killed is noticed like one that ends. A
``serve`` that was started for its users ends itself when no lease has been held for a while; one that a
person started counts leases and does nothing about them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafile_mgr.changes import Changes
from llamafile_mgr.errors import EngineStartError, Error, NotReadyError, RequestError, StoreError
from llamafile_mgr.locks import LockBusyError, Locks
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.processes import Holder, is_alive, is_of_this_computer
from llamafile_mgr.supervisor.snapshots import PoolSnapshot
from llamafile_mgr.supervisor.states import EngineState
from llamafile_mgr.tasks import start_task
from llamafile_mgr.typed_values import FieldError, read_record

#: How long after its start a ``serve`` for its users waits for the first of them.
FIRST_USER_SECONDS = 10.0
_CHECK_SECONDS = 0.25
_REPORT_SECONDS = 1.0
_TELL_SECONDS = 2.0
_PREDECESSOR_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """What makes a ``serve`` one for its users.

    ``key`` stands for its models and settings. ``starter_is_gone``: nobody waits for this start any more.
    """

    key: str
    starter_is_gone: Callable[[], bool]


class LeaseTable:
    """Which leases are held, and since when none is. Times are those of one monotonic clock. Pure."""

    def __init__(self, now: float, patience_seconds: float = FIRST_USER_SECONDS) -> None:
        self._held: set[int] = set()
        self._until = now + patience_seconds
        self._used = False
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, now: float) -> int:
        """Note a new lease and return its number."""
        if not self._used:
            self._used, self._until = True, now
        number = next(self._numbers)
        self._held.add(number)
        return number

    def drop(self, number: int, now: float, keep_seconds: float) -> None:
        """Note the end of a lease, whose user wants the service kept for so long after it."""
        if number in self._held:
            self._held.remove(number)
            self._until = max(self._until, now + keep_seconds)

    def left(self, now: float) -> float | None:
        """Return the seconds until nobody needs the service any more, None while a lease is held."""
        return None if self._held else max(0.0, self._until - now)


@dataclass(eq=False, slots=True)
class Leases:
    """The leases of one running ``serve``.

    ``snapshots``: the state of its models. ``changes``: of that state and of the leases. ``access``: what a
    user gets with a lease, such as the URL.
    """

    _snapshots: Callable[[], Sequence[PoolSnapshot]]
    _changes: Changes
    _access: Mapping[str, Any]
    _terms: LeaseTerms | None
    _table: LeaseTable = field(default_factory=lambda: LeaseTable(time.monotonic()))
    _watchers: set[asyncio.Task[None]] = field(default_factory=set)
    _waiting: int = 0
    _started: bool = False
    _failure: Error | None = None
    _closed: bool = False

    @property
    def key(self) -> str | None:
        """Return what stands for models and settings; None for a ``serve`` that a person started."""
        return self._terms.key if self._terms is not None else None

    @property
    def users(self) -> int:
        """Return how many leases are held."""
        return len(self._table)

    def give_key(self, api_key: str | None) -> None:
        """Give this key with the leases that are taken from now on."""
        self._access = {**self._access, "api_key": api_key}

    def mark_started(self) -> None:
        """Note that every model was ready once; from now on an unloaded one is as good as a ready one."""
        self._started = True
        self._changes.announce()

    async def fail(self, error: Error) -> None:
        """Tell everybody who waits that the start failed, before the channel is closed."""
        self._failure, self._closed = error, True
        self._changes.announce()
        await self._changes.wait_for(lambda: not self._waiting, _TELL_SECONDS)

    async def unused(self) -> None:
        """Return when no lease has been held for long enough; none is given from then on."""
        while (left := self._table.left(time.monotonic())) != 0:
            await self._changes.wait(left)
        self._closed = True

    async def close(self) -> None:
        """Stop watching processes."""
        for task in self._watchers:
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    async def hold(
        self, command: Mapping[str, Any], gone: asyncio.Future[None]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Give a lease, tell how the start goes until all models are ready, and keep it until ``gone``.

        Raises:
            NotReadyError: this service is about to end.
            RequestError: the process that was named cannot be watched from here.
            EngineStartError: a model failed for good.
        """
        process, keep_seconds = _read_process(command), _read_keep(command)
        self._check()
        number = self._table.add(time.monotonic())
        try:
            yield {"leased": True, "key": self.key, **self._access}
            async with contextlib.aclosing(self._until_ready(gone)) as answers:
                async for answer in answers:
                    yield answer
            await asyncio.wait({gone})
        finally:
            if process is not None and is_alive(process):
                task = start_task(self._watch(number, process, keep_seconds), "leased process")
                self._watchers.add(task)
                task.add_done_callback(self._watchers.discard)
            else:
                self._drop(number, keep_seconds)

    async def _until_ready(self, gone: asyncio.Future[None]) -> AsyncGenerator[dict[str, Any], None]:
        told = time.monotonic()
        gone.add_done_callback(lambda _: self._changes.announce())
        with self._counted():
            while not gone.done():
                self._check()
                snapshots = self._snapshots()
                if self._started and all(pool.ready or not pool.loaded for pool in snapshots):
                    yield {"ready": True, "models": find_defaults(snapshots)}
                    return
                if self._started and (failure := find_failure(snapshots)) is not None:
                    raise failure
                left = told + _REPORT_SECONDS - time.monotonic()
                if left > 0:
                    await self._changes.wait(left)
                else:
                    told = time.monotonic()
                    yield {"waiting": [pool.model for pool in snapshots if not pool.ready]}

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self._changes.announce()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise NotReadyError("this serve is about to end: nobody used it any more")

    async def _watch(self, number: int, process: Holder, keep_seconds: float) -> None:
        try:
            while True:
                if not await asyncio.to_thread(is_alive, process):
                    break
                await asyncio.sleep(_CHECK_SECONDS)
        finally:
            self._drop(number, keep_seconds)

    def _drop(self, number: int, keep_seconds: float) -> None:
        self._table.drop(number, time.monotonic(), keep_seconds)
        self._changes.announce()


def find_defaults(snapshots: Sequence[PoolSnapshot]) -> dict[str, str]:
    """Return role -> the first model of it, which answers calls that name none."""
    first: dict[str, str] = {}
    for pool in snapshots:
        first.setdefault(pool.role, pool.model)
    return first


def find_failure(snapshots: Sequence[PoolSnapshot]) -> EngineStartError | None:
    """Return why a model cannot be started, None while none has failed for good."""
    for snapshot in snapshots:
        if snapshot.engines and all(engine.state is EngineState.FAILED for engine in snapshot.engines):
            engine = snapshot.engines[0]
            return EngineStartError(
                f"{snapshot.model} cannot be started", cause=engine.cause, hint=f"its log: {engine.log}"
            )
    return None


def _read_process(command: Mapping[str, Any]) -> Holder | None:
    told = command.get("process")
    if told is None:
        return None
    try:
        process = read_record(told, Holder, "it")
    except FieldError as error:
        raise RequestError(f"the process of the lease makes no sense: {error}") from error
    if not is_of_this_computer(process) or not is_alive(process):
        raise RequestError(
            "the process of the lease cannot be seen from the serve",
            cause="they run in different containers",
            hint="give each its own LLAMAFILE_MGR_HOME",
        )
    return process


def _read_keep(command: Mapping[str, Any]) -> float:
    value = command.get("keep_seconds", 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise RequestError("keep_seconds must be a number of seconds")
    return float(value)


@contextlib.contextmanager
def single_instance(runtime: Path, terms: LeaseTerms | None) -> Iterator[None]:
    """Be the only ``serve`` of these terms while inside; one that is ending is waited for.

    Raises:
        NotReadyError: whoever started this one has gone meanwhile, perhaps because the other one was joined.
        StoreError: the other one does not end.
    """
    if terms is None:
        yield
        return

    def wait_on(_: float) -> None:
        if terms.starter_is_gone():
            raise NotReadyError("nobody waits for this serve any more")

    directory = ensure_private_dir(runtime)
    path = directory / f"exec-{terms.key}.alive"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(Locks(directory).held(path, seconds=_PREDECESSOR_SECONDS, waiting=wait_on))
        except LockBusyError as error:
            raise StoreError(
                "an earlier serve of the same models does not end",
                hint="find it with llamafile-mgr status, and stop it",
            ) from error
        yield
