"""The engines that serve one model, and where calls wait until one of them can be asked.

One task runs ``Pool.run`` and is the only one that adds and removes engines; others send it commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from types import TracebackType

from llamafile_mgr.addresses import RemoteConfig
from llamafile_mgr.catalog import Role
from llamafile_mgr.changes import Changes
from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineLostError, EngineStartError, NotReadyError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.members import Member, gone_for_long, not_settled
from llamafile_mgr.supervisor.memory import resident_bytes
from llamafile_mgr.supervisor.routing import Rates
from llamafile_mgr.supervisor.snapshots import PoolSnapshot
from llamafile_mgr.supervisor.states import EngineState
from llamafile_mgr.supervisor.throughput import Job
from llamafile_mgr.tasks import start_task

__all__ = ["Lease", "Pool", "PoolOptions"]

_LOG = logging.getLogger("llamafile_mgr.supervisor")
_TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """``idle_unload_seconds``: without calls for so long the engines are ended, None never.

    ``pinned``: never unloaded to make room for others. ``memory_limit_bytes``: an engine that grows beyond
    it is replaced. ``drain_seconds``: for calls in progress when an engine is stopped.
    """

    idle_unload_seconds: float | None = None
    pinned: bool = True
    memory_limit_bytes: int | None = None
    drain_seconds: float = 30.0


Command = Callable[[], Awaitable[None]]


class Pool:
    """Routes calls to the ready engine with the fewest in flight, or with the shortest expected wait where
    remote ones are among them; calls wait while none is ready.

    ``make_engine`` makes the engine of a plan, given a number that none of this pool's had before, and
    ``make_remote`` stands for one of its remotes. ``make_room`` is awaited before engines are started.
    ``changes``: of the pool and its engines, which announce theirs themselves.
    """

    def __init__(
        self,
        plan: Plan,
        options: PoolOptions,
        make_engine: Callable[[Plan, int], Member],
        make_remote: Callable[[Plan, RemoteConfig], Member],
        make_room: Callable[[Pool], Awaitable[None]],
        changes: Changes,
    ) -> None:
        self.plan = plan
        self.options = options
        self.changes = changes
        self.engines: tuple[Member, ...] = ()
        self.resting = False
        self._make_engine = make_engine
        self._make_remote = make_remote
        self._make_room = make_room
        self._tasks: dict[Member, asyncio.Task[None]] = {}
        self._rates = Rates()
        self._commands: asyncio.Queue[tuple[Command, asyncio.Future[None]]] = asyncio.Queue()
        self._loading = False
        self._made = 0
        self._waiting = 0
        self._last_call = time.monotonic()
        self._hurried = False

    # What others may ask and do.

    @property
    def ready(self) -> bool:
        """Tell whether a call could be sent now."""
        return any(engine.ready for engine in self.engines)

    @property
    def busy(self) -> bool:
        """Tell whether calls are in progress or waiting."""
        return self._waiting > 0 or any(engine.in_flight for engine in self.engines)

    @property
    def idle_seconds(self) -> float:
        """Return the time since the last call began or ended; 0 while there are calls."""
        return 0.0 if self.busy else time.monotonic() - self._last_call

    def snapshot(self) -> PoolSnapshot:
        """Return what ``status`` and ``/ready`` show."""
        now = time.monotonic()
        return PoolSnapshot(
            model=self.plan.name,
            role=self.plan.role.value,
            family=self.plan.family.value,
            ready=self.ready,
            loaded=bool(self.engines) or self._loading,
            pinned=self.options.pinned,
            waiting=self._waiting,
            idle_seconds=self.idle_seconds,
            engines=tuple(
                replace(engine.snapshot(), rate=self._rates.rate(engine, now)) for engine in self.engines
            ),
            resting=self.resting,
        )

    def hurry(self) -> None:
        """Let engines that are stopped from now on end without waiting for their calls."""
        self._hurried = True

    async def load(self) -> None:
        """Start the engines unless there are some that live; returns when they are started, not ready."""
        self._loading = True
        self.resting = False
        await self._command(self._load)

    def rest(self) -> None:
        """Leave it unloaded until its first call."""
        self.resting = True
        self.changes.announce()

    async def unload(self) -> None:
        """End all engines; the next call starts them again."""
        await self._command(self._unload)

    async def replace(self, plan: Plan | None = None) -> None:
        """Put a new engine in the place of each, checked and ready before the old one drains.

        ``plan``: what the new ones shall be, the present plan by default.

        Raises:
            EngineStartError: a new engine did not become ready; the old ones serve on.
        """
        await self._command(lambda: self._replace(plan or self.plan))

    def lease(self, wait_seconds: float, work: int = 0) -> Lease:
        """Return an async context that holds the least busy ready engine for one call; its ``client`` is set.

        ``work``: the call's tokens, by which the engine's speed is measured; 0 leaves it out.
        """
        return Lease(self, wait_seconds, work)

    async def take(self, wait_seconds: float) -> Member:
        """Wait for an engine; raises as ``Lease`` does."""
        engine = await self._await_engine(wait_seconds)
        self._rates.begin(engine, time.monotonic())
        return engine

    def give_back(self, engine: Member, work: int, *, answered: bool) -> None:
        """Note the end of a call."""
        self._last_call = now = time.monotonic()
        done = work if self.plan.role is Role.EMBED else 1
        self._rates.end(engine, done if answered else 0, now)

    async def call(
        self,
        request: EngineRequest,
        *,
        wait_seconds: float,
        deadline_seconds: float,
        work: int = 0,
        check: Callable[[EngineReply], None] | None = None,
    ) -> EngineReply:
        """Send an idempotent request; when its engine dies it is sent again to the next one.

        ``deadline_seconds`` is for the whole, waiting included; ``work`` as for ``lease``. ``check`` raises
        EngineError for a reply that is not right, which makes the engine prove itself.

        Raises:
            NotReadyError: no engine became ready in time.
            EngineError: the engine did not answer in time, or not rightly.
            EngineLostError: engines died under it until the deadline.
        """
        end = time.monotonic() + deadline_seconds
        while True:
            left = end - time.monotonic()
            try:
                async with self.lease(min(wait_seconds, left), work) as engine:
                    return await self._ask(engine, request, end, check)
            except EngineLostError:
                if time.monotonic() >= end:
                    raise
            # The engine's own task has yet to see the death: let it, instead of asking again at once.
            await asyncio.sleep(0.01)

    async def _ask(
        self, engine: Member, request: EngineRequest, end: float, check: Callable[[EngineReply], None] | None
    ) -> EngineReply:
        client = engine.client
        if client is None:
            raise EngineLostError(f"{engine.name} was stopped")
        reply = await client.request(request, deadline_seconds=max(0.001, end - time.monotonic()))
        if check is not None:
            try:
                check(reply)
            except EngineError:
                engine.suspect()
                raise
        return reply

    async def _await_engine(self, wait_seconds: float) -> Member:
        end = time.monotonic() + wait_seconds
        self._waiting += 1
        try:
            while True:
                ready = [engine for engine in self.engines if engine.ready]
                if len(ready) == 1:
                    return ready[0]
                if ready:
                    if self.plan.remotes:
                        return self._rates.choose(ready, time.monotonic())
                    return min(ready, key=lambda engine: engine.in_flight)
                if not self.engines and not self._loading:
                    await self.load()
                    continue
                if self.engines and all(gone_for_long(engine) for engine in self.engines):
                    raise self._not_ready("cannot be started")
                left = end - time.monotonic()
                if left <= 0:
                    raise self._not_ready("is not ready yet")
                await self.changes.wait(left)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.changes.announce()  # perhaps it is not busy any more

    def _not_ready(self, what: str) -> NotReadyError:
        causes = [engine.cause for engine in self.engines if engine.cause is not None]
        error = NotReadyError(
            f"the model {self.plan.name} {what}",
            cause=causes[0].cause if causes else None,
            hint=causes[0].hint if causes else None,
        )
        waits = [engine.retry_seconds for engine in self.engines if engine.retry_seconds is not None]
        error.retry_after_seconds = max(1.0, min(waits, default=error.retry_after_seconds))
        return error

    # Membership; everything below runs in the pool's task.

    async def run(self) -> None:
        """Carry out commands and look after idleness and memory until cancelled; then end all engines."""
        try:
            while True:
                try:
                    command, done = await asyncio.wait_for(self._commands.get(), _TICK_SECONDS)
                except asyncio.TimeoutError:
                    await self._tick_safely()
                    continue
                try:
                    await command()
                except BaseException as error:
                    if not done.done():
                        done.set_exception(error) if isinstance(error, Exception) else done.cancel()
                    if not isinstance(error, Exception):
                        raise
                else:
                    if not done.done():
                        done.set_result(None)
        finally:
            while not self._commands.empty():
                self._commands.get_nowait()[1].cancel()
            await asyncio.shield(self._end_all())

    async def _command(self, command: Command) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._commands.put_nowait((command, done))
        await done

    async def _load(self) -> None:
        try:
            if self.engines and not all(engine.over for engine in self.engines):
                return
            await self._end_all()
            await self._make_room(self)
            for _ in range(self.plan.replicas):
                self._start()
            for remote in self.plan.remotes:
                self._add(self._make_remote(self.plan, remote))
        finally:
            self._loading = False
            self._last_call = time.monotonic()
            self.changes.announce()

    async def _unload(self) -> None:
        self.resting = True
        await self._end_all()
        self.changes.announce()

    async def _replace(self, plan: Plan) -> None:
        self._loading = False
        old = self.engines
        new: list[Member] = []
        try:
            for _ in range(plan.replicas):
                engine = self._start(plan, joins=False)
                new.append(engine)
                await self._until_settled(engine)
            for remote in plan.remotes:
                member = self._add(self._make_remote(plan, remote), joins=False)
                new.append(member)  # one that cannot be had now is tried again later
                with contextlib.suppress(EngineStartError):
                    await self._until_settled(member, patient=False)
            if new and not any(each.ready for each in new):
                raise not_settled(plan.name, new[0])
        except BaseException:
            await self._end(new, 0.0)
            raise
        self.plan = plan
        self.engines = tuple(new)
        self.changes.announce()
        await self._end(old, self.options.drain_seconds)

    async def _until_settled(self, engine: Member, *, patient: bool = True) -> None:
        """Wait until it is ready; unless ``patient``, no longer than its first try takes."""
        while not engine.ready:
            tried = engine.state is EngineState.BACKING_OFF and not patient
            if engine.over or tried or self._tasks[engine].done():
                raise not_settled(self.plan.name, engine)
            await self.changes.wait()

    async def _tick_safely(self) -> None:
        try:
            await self._tick()
        except Exception:  # calls and commands go on
            _LOG.exception("%s: a defect of ours", self.plan.name)

    async def _tick(self) -> None:
        options = self.options
        if not self.engines:
            return
        if not self.ready:
            self._last_call = time.monotonic()  # starting is no idleness
        limit = options.idle_unload_seconds
        if limit is not None and self.idle_seconds >= limit:
            _LOG.info("%s: unloaded after %.0f s without calls", self.plan.name, self.idle_seconds)
            await self._unload()
        elif options.memory_limit_bytes is not None:
            await self._check_memory(options.memory_limit_bytes)

    async def _check_memory(self, limit: int) -> None:
        for engine in self.engines:
            pid = engine.pid
            if not engine.ready or pid is None:
                continue
            taken = await asyncio.to_thread(resident_bytes, pid)
            if taken > limit:
                _LOG.warning("%s takes %d MiB, above its limit: replaced", engine.name, taken >> 20)
                try:
                    await self._exchange(engine)
                except EngineStartError as error:
                    _LOG.warning("%s", error.describe())

    async def _exchange(self, old: Member) -> None:
        """Put a new engine in the place of one, ready before the old one drains."""
        new = self._start(joins=False)
        try:
            await self._until_settled(new)
        except BaseException:
            await self._end([new], 0.0)
            raise
        self.engines = tuple(new if engine is old else engine for engine in self.engines)
        self.changes.announce()
        await self._end([old], self.options.drain_seconds)

    def _start(self, plan: Plan | None = None, *, joins: bool = True) -> Member:
        engine = self._make_engine(plan or self.plan, self._made)
        self._made += 1
        return self._add(engine, joins=joins)

    def _add(self, engine: Member, *, joins: bool = True) -> Member:
        self._tasks[engine] = start_task(engine.run(), f"engine {engine.name}")
        if joins:
            self.engines = (*self.engines, engine)
        return engine

    async def _end_all(self) -> None:
        engines, self.engines = list(self._tasks), ()
        await self._end(engines, 0.0 if self._hurried else self.options.drain_seconds)

    async def _end(self, engines: list[Member] | tuple[Member, ...], drain_seconds: float) -> None:
        """Stop engines, each draining, and wait until they are gone."""
        tasks = [self._tasks[engine] for engine in engines]
        for engine in engines:
            engine.request_stop(drain_seconds)
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for engine, task in zip(engines, tasks, strict=True):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                self._tasks.pop(engine, None)


class Lease:
    """An engine held for one call: an async context. A class and no generator, for every call passes here.

    Raises:
        NotReadyError: no engine became ready within ``wait_seconds``, or all have failed.
    """

    __slots__ = ("_began", "_client", "_engine", "_job", "_pool", "_wait_seconds", "_work")

    def __init__(self, pool: Pool, wait_seconds: float, work: int) -> None:
        self._pool = pool
        self._wait_seconds = wait_seconds
        self._work = work
        self._began = 0.0
        self._engine: Member | None = None
        self._client: EngineClient | None = None
        self._job: Job | None = None

    async def __aenter__(self) -> Member:
        engine = await self._pool.take(self._wait_seconds)
        self._engine, self._client, self._began = engine, engine.client, time.monotonic()
        self._job = engine.take(self._work)
        return engine

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Give the engine back; it answered if anything came from it meanwhile."""
        engine, self._engine = self._engine, None
        if engine is not None:
            answered = self._client is not None and self._client.last_received >= self._began
            self._pool.give_back(engine, self._work, answered=answered)
            engine.give_back(self._job, answered=answered)
