"""The engines that serve one model, and where calls wait until one of them can be asked.

One task runs ``Pool.run`` and is the only one that adds and removes engines; others send it commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from llamafile_mgr.addresses import RemoteConfig
from llamafile_mgr.catalog import Role
from llamafile_mgr.changes import Changes
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.errors import EngineStartError, Error, InternalError, NotReadyError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.backend import Backend, gone_for_long, not_settled
from llamafile_mgr.supervisor.calls import BatchPolicy
from llamafile_mgr.supervisor.dispatch import Dispatcher
from llamafile_mgr.supervisor.process_memory import resident_bytes
from llamafile_mgr.supervisor.queue import QueueLimits
from llamafile_mgr.supervisor.snapshots import PoolSnapshot
from llamafile_mgr.supervisor.states import EngineState
from llamafile_mgr.tasks import start_task

_LOG = logging.getLogger("llamafile_mgr.supervisor")
_TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """``idle_unload_seconds``: without calls for so long the engines are ended, None never.

    ``pinned``: never unloaded to make room for others. ``memory_limit_bytes``: an engine that grows beyond
    it is replaced. ``drain_seconds``: for calls in progress when an engine is stopped. ``hold_seconds``: for
    calls whose engines were lost. ``limits``: of what the queue holds, None for who is its only caller.
    ``policy``: how batches are made, None for what suits the plan.
    """

    idle_unload_seconds: float | None = None
    pinned: bool = True
    memory_limit_bytes: int | None = None
    drain_seconds: float = 30.0
    hold_seconds: float = 600.0
    limits: QueueLimits | None = None
    policy: BatchPolicy | None = None


def make_policy(plan: Plan) -> BatchPolicy:
    """Return how batches are made for engines of this plan.

    A query waits for one batch of bulk at an engine, never for two. Engines that take one text a request get
    as many requests at once as they have slots: their queries wait for the first slot. A GPU gets what its
    physical batch holds, and a second batch, since it would idle between two requests. What is not embedded
    is computed call by call: as many as there are slots, and one more waits at the engine's door.
    """
    if plan.role is not Role.EMBED:
        return BatchPolicy(batch_texts=1, bulk_batches=plan.settings.slots + 1, extra_batches=0)
    most = family_rules(plan.family).max_texts
    if most == 1:
        return BatchPolicy(batch_texts=1, bulk_batches=max(1, plan.settings.slots))
    default = BatchPolicy()
    texts = min(default.batch_texts, most)
    if plan.settings.gpu in (None, "disable"):
        return replace(default, batch_texts=texts)
    tokens = max(default.batch_tokens, plan.settings.batch or 0)
    return replace(default, batch_tokens=tokens, batch_texts=texts, bulk_batches=2)


Command = Callable[[], Awaitable[None]]


class Pool:
    """The engines of one plan; ``calls`` takes what is asked of them.

    ``make_engine`` makes the engine of a plan, given a number that none of this pool's had before, and
    ``make_remote`` stands for one of its remotes. ``make_room`` is awaited before engines are started.
    ``tell`` is called at every change of the pool or its engines, for whom ``changes`` is announced.
    """

    def __init__(
        self,
        plan: Plan,
        options: PoolOptions,
        make_engine: Callable[[Plan, int], Backend],
        make_remote: Callable[[Plan, RemoteConfig], Backend],
        make_room: Callable[[Pool], Awaitable[None]],
        tell: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.options = options
        self.changes = Changes(self._note_change)
        self._tell = tell
        self.engines: tuple[Backend, ...] = ()
        self.resting = False
        self._make_engine = make_engine
        self._make_remote = make_remote
        self._make_room = make_room
        self._tasks: dict[Backend, asyncio.Task[None]] = {}
        self._commands: asyncio.Queue[tuple[Command, asyncio.Future[None]]] = asyncio.Queue()
        self._loading: asyncio.Task[None] | None = None
        self._made = 0
        self._hurried = False
        self._over = False
        self._policy_of, self._policy = plan, make_policy(plan)
        self.calls = Dispatcher(self, options.limits, options.hold_seconds)

    # What others may ask and do.

    @property
    def ready(self) -> bool:
        """Tell whether a call could be sent now."""
        return any(engine.ready for engine in self.engines)

    @property
    def busy(self) -> bool:
        """Tell whether calls are in progress or waiting."""
        return not self.calls.queue.idle

    @property
    def idle_seconds(self) -> float:
        """Return the time since the last call began or ended; 0 while there are calls."""
        return 0.0 if self.busy else time.monotonic() - self.calls.last_activity

    def snapshot(self) -> PoolSnapshot:
        """Return what ``status`` and ``/ready`` show."""
        now = time.monotonic()
        return PoolSnapshot(
            model=self.plan.name,
            role=self.plan.role.value,
            family=self.plan.family.value,
            ready=self.ready,
            loaded=self.loaded,
            pinned=self.options.pinned,
            waiting=self.calls.queue.waiting,
            idle_seconds=self.idle_seconds,
            engines=tuple(replace(engine.snapshot(), rate=engine.meter.rate(now)) for engine in self.engines),
            resting=self.resting,
            accepted=self.plan.accepted.describe(),
        )

    def apply(self, options: PoolOptions) -> None:
        """Take other options; they count from the next call, look and command on."""
        self.options = options
        self.calls.apply(options.limits, options.hold_seconds)

    def hurry(self) -> None:
        """Let engines that are stopped from now on end without waiting for their calls."""
        self._hurried = True

    async def load(self) -> None:
        """Start the engines unless there are some that live; returns when they are started, not ready.

        Raises:
            NotReadyError: there is no memory for them.
        """
        self.load_soon()
        if self._loading is None:
            raise self._stopped()
        await asyncio.shield(self._loading)

    def load_soon(self) -> None:
        """Start the engines; what keeps them from being started is told to the calls that wait."""
        if self._over:
            self.calls.refuse_waiting(self._stopped())
        elif self._loading is None:
            self.resting = False
            self._loading = asyncio.create_task(self._command(self._load), name=f"load {self.plan.name}")
            self._loading.add_done_callback(self._note_loaded)

    def _stopped(self) -> NotReadyError:
        return NotReadyError(f"{self.plan.name} was stopped")

    def _note_loaded(self, task: asyncio.Task[None]) -> None:
        self._loading = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            if not isinstance(error, Error):
                _LOG.error("%s: defect while loading", self.plan.name, exc_info=error)
                error = InternalError(f"{self.plan.name} could not be started: {error}")
            self.calls.refuse_waiting(error)
        self.calls.note_activity()
        self.changes.announce()

    def _note_change(self) -> None:
        self.calls.look_soon()
        self._tell()

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

    # What the dispatcher asks.

    @property
    def members(self) -> Sequence[Backend]:
        """Return the engines, ready or not."""
        return self.engines

    @property
    def policy(self) -> BatchPolicy:
        """Return how batches are made for the engines that there are now."""
        if self._policy_of is not self.plan:
            self._policy_of, self._policy = self.plan, make_policy(self.plan)
        return self.options.policy or self._policy

    @property
    def alike(self) -> bool:
        """Tell whether all engines are as fast, as those of one machine are."""
        return not self.plan.remotes

    @property
    def loaded(self) -> bool:
        """Tell whether there are engines, ready or not, or they are being started."""
        return bool(self.engines) or self._loading is not None

    @property
    def hopeless(self) -> bool:
        """Tell whether no engine will be ready soon."""
        return bool(self.engines) and all(gone_for_long(engine) for engine in self.engines)

    @property
    def failed(self) -> bool:
        """Tell whether every engine has failed and none will be tried again by itself."""
        gone = (each.state is EngineState.FAILED and each.retry_seconds is None for each in self.engines)
        return bool(self.engines) and all(gone)

    def note_idle(self) -> None:
        """Tell who waits for it that nothing is asked any more."""
        self.changes.announce()

    def not_ready(self) -> NotReadyError:
        """Return why a call cannot be sent, and when to come back."""
        what = "cannot be started" if self.hopeless else "is not ready yet"
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
                except TimeoutError:
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
            self._over = True
            self.calls.refuse_waiting(self._stopped())
            await asyncio.shield(self._end_all())

    async def _command(self, command: Command) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._commands.put_nowait((command, done))
        await done

    async def _load(self) -> None:
        if self.engines and not all(engine.over for engine in self.engines):
            return
        await self._end_all()
        await self._make_room(self)
        for _ in range(self.plan.replicas):
            self._start()
        for remote in self.plan.remotes:
            self._add(self._make_remote(self.plan, remote))

    async def _unload(self) -> None:
        self.resting = True
        await self._end_all()
        self.changes.announce()

    async def _replace(self, plan: Plan) -> None:
        old = self.engines
        new: list[Backend] = []
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

    async def _until_settled(self, engine: Backend, *, patient: bool = True) -> None:
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
            self.calls.note_activity()  # starting is no idleness
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

    async def _exchange(self, old: Backend) -> None:
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

    def _start(self, plan: Plan | None = None, *, joins: bool = True) -> Backend:
        engine = self._make_engine(plan or self.plan, self._made)
        self._made += 1
        return self._add(engine, joins=joins)

    def _add(self, engine: Backend, *, joins: bool = True) -> Backend:
        self._tasks[engine] = start_task(engine.run(), f"engine {engine.name}")
        if joins:
            self.engines = (*self.engines, engine)
        return engine

    async def _end_all(self) -> None:
        engines, self.engines = list(self._tasks), ()
        await self._end(engines, 0.0 if self._hurried else self.options.drain_seconds)

    async def _end(self, engines: list[Backend] | tuple[Backend, ...], drain_seconds: float) -> None:
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
