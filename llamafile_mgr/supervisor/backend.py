"""What a pool routes calls to, engines of this machine and remote ones alike, and the life that they share:
one task carries out what the ``Lifecycle`` decides, and is the only writer of the state; others read it and
leave requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from llamafile_mgr.changes import Changes
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineStartError, Error
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.diagnosis import Diagnosis
from llamafile_mgr.supervisor.engine_log import EngineLog
from llamafile_mgr.supervisor.engine_start import EngineChecks
from llamafile_mgr.supervisor.lifecycle import Lifecycle
from llamafile_mgr.supervisor.liveness import Probe, Signs, decide_probe, longest_silence, works
from llamafile_mgr.supervisor.meters import EngineMeter, MeteredWork
from llamafile_mgr.supervisor.snapshots import EngineSnapshot, EngineSurroundings, Transition
from llamafile_mgr.supervisor.states import EngineEvent, EngineState

_LOG = logging.getLogger("llamafile_mgr.supervisor")
#: For the diagnosis of a death that a call has seen: its process is gone, so little is left to wait for.
_FATE_SECONDS = 5.0
#: For what is left of a life that has failed: nothing of value is in it.
FAILED_GRACE_SECONDS = 2.0
#: Calls are not held for an engine that will not even be started within this time.
_LONGEST_HELD_BACKOFF_SECONDS = 5.0
_STOPPED = Diagnosis("it was stopped", external=True)


@dataclass(slots=True)
class _Fate:
    """What became of the try of this ``number``."""

    number: int
    known: asyncio.Future[Diagnosis]


class Backend(ABC):
    """One of a pool. ``client``: the connections to it, None while there are none. ``width``: how many
    engines stand behind it. ``judged``: its speed is compared with the best that was seen."""

    _checks: EngineChecks

    def __init__(
        self, name: str, plan: Plan, log_name: str, surroundings: EngineSurroundings, *, judged: bool
    ) -> None:
        self.name = name
        self.plan = plan
        self.log = EngineLog(surroundings.logs / f"{log_name}.log")
        self.client: EngineClient | None = None
        self.in_flight = 0
        self.served = 0
        self._worked = 0  # of those, more than counting tokens, which an engine does that dies of every text
        self.width = 1
        self._rules = family_rules(plan.family)
        self._port: int | None = None
        self._surroundings = surroundings
        self._life = Lifecycle(surroundings.restart, plan.settings)
        self._judged = judged
        self.meter = self._make_meter()
        self._since = time.monotonic()
        self._transitions: deque[Transition] = deque(maxlen=32)
        self._fates: weakref.WeakKeyDictionary[object, _Fate] = weakref.WeakKeyDictionary()
        self._idle = asyncio.Event()
        self._idle.set()
        self._requests = Changes()
        self._stopping = False
        self._drain_seconds = 0.0
        self._suspected = asyncio.Event()
        self._owed_tokens = 0

    # What others may ask and do.

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Tell whether calls may be sent to ``client``."""

    @property
    def pid(self) -> int | None:
        """Return the process id of one that runs here."""
        return None

    @property
    def state(self) -> EngineState:
        """Return where it is in its life."""
        return self._life.state

    @property
    def cause(self) -> Diagnosis | None:
        """Return why it was last lost."""
        return self._life.cause

    @property
    def over(self) -> bool:
        """Tell whether waiting for it makes no sense."""
        return self.state in (EngineState.FAILED, EngineState.STOPPED)

    @property
    def retry_seconds(self) -> float | None:
        """Return the seconds until it is tried again, None when it is not going to be."""
        at = self._life.retry_at
        return None if at is None else max(0.0, at - time.monotonic())

    def begin(self, tokens: int) -> MeteredWork | None:
        """Count a batch that is sent to it; ``tokens``: 0 for one that is not measured."""
        self.in_flight += 1
        self._idle.clear()
        self._owed_tokens += self._most_tokens(tokens)
        return self.meter.begin(tokens, time.monotonic()) if tokens else None

    def end(self, job: MeteredWork | None, *, answered: bool) -> None:
        """Count a batch's end, and tell when the engine has become slow, or fast again."""
        if job is not None and self.meter.end(job, time.monotonic(), answered=answered):
            said = "is slow" if self.meter.slow else "is as fast again as it was"
            share = 100 * (self.meter.share or 0.0)
            _LOG.warning("%s %s: %.0f %% of the best throughput that it has shown", self.name, said, share)
        self.in_flight -= 1
        self._owed_tokens -= self._most_tokens(job.size if job is not None else 0)
        self.served += answered
        self._worked += answered and job is not None
        if self.in_flight == 0:
            self._idle.set()
            self._surroundings.changed()

    def request_stop(self, drain_seconds: float) -> None:
        """Ask it to finish its calls within ``drain_seconds``, take no more, and end."""
        self._drain_seconds = drain_seconds
        self._stopping = True
        self._requests.announce()

    def suspect(self) -> None:
        """Say that an answer was not right; it is checked now, and lost if it is to blame."""
        self._suspected.set()

    async def was_ended(self, client: object) -> bool:
        """Tell whether what stood behind ``client`` was ended by somebody, ourselves included, so that no
        request is to blame; waits a moment for the diagnosis."""
        fate = self._fates.get(client)
        if fate is None:
            return False
        await asyncio.wait({fate.known}, timeout=_FATE_SECONDS)
        return fate.known.done() and fate.known.result().external

    def excuse_death(self, client: object) -> None:
        """Say that a request is to blame for the end of what stood behind ``client``, once its fate is known:
        it does not count against the budget of restarts, and one that waits or has failed for it is started
        again."""
        fate = self._fates.get(client)
        if fate is not None and self._life.excuse(fate.number, time.monotonic()):
            self._requests.announce()

    def snapshot(self) -> EngineSnapshot:
        """Return what ``status`` shows."""
        return EngineSnapshot(
            name=self.name,
            state=self.state,
            age_seconds=time.monotonic() - self._since,
            pid=self.pid,
            port=self._port,
            restarts=max(0, self._life.tries - 1),
            in_flight=self.in_flight,
            served=self.served,
            cause=self.cause.cause if self.cause else None,
            steps=self._life.steps,
            retry_seconds=self.retry_seconds,
            transitions=tuple(self._transitions),
            log=str(self.log.path),
            speed=self.meter.share,
            slow=self.meter.slow,
        )

    # Its life; everything below runs in one task.

    @abstractmethod
    async def _live_once(self) -> Diagnosis | None:
        """Live until it is lost or shall stop; return why it was lost. May raise anything instead."""

    @abstractmethod
    def _explain(self, error: Error) -> Diagnosis:
        """Return what an error says of the end of a life."""

    @abstractmethod
    async def _note_death(self, death: Diagnosis) -> None:
        """Log a death."""

    async def _close(self, grace_seconds: float) -> None:
        """Leave nothing of this life behind; another may follow."""
        client, self.client = self.client, None
        if client is not None:
            await client.close()

    async def run(self) -> None:
        """Keep it alive until a stop is requested, or this task is cancelled."""
        event = EngineEvent.SPAWN
        try:
            while True:
                self._move(event)
                death = await self._diagnose_life()
                if death is None or self._stopping:
                    return
                await self._end(FAILED_GRACE_SECONDS)
                await self._die(death)
                if not await self._is_due():
                    return
                event = EngineEvent.RETRY
        finally:
            self._settle_fates(_STOPPED)
            self._move(EngineEvent.STOP)
            await asyncio.shield(self._end(self._surroundings.grace_seconds))
            if self.state is EngineState.STOPPING:
                self._move(EngineEvent.GONE)

    async def _diagnose_life(self) -> Diagnosis | None:
        try:
            return await self._live_once()
        except Error as error:
            return self._explain(error)
        except Exception as error:  # the boundary of one life: a defect must show as a lost engine
            _LOG.exception("%s: a defect of ours", self.name)
            return Diagnosis(f"a defect of ours: {type(error).__name__}: {error}", curable=True)

    async def _die(self, death: Diagnosis) -> None:
        before, now = self.state, time.monotonic()
        aftermath = self._life.die(death, worked=self._worked, now=now, jitter=random.random())  # noqa: S311
        self._tell_move(before)
        self._settle_fates(death)
        if aftermath.step is not None:
            self.meter = self._make_meter()
        await self._note_death(death)

    def _make_meter(self) -> EngineMeter:
        """Return a meter for the present settings."""
        best = self._surroundings.best_rates(self._life.settings) if self._judged else None
        return EngineMeter(self._surroundings.speed, best)

    async def _is_due(self) -> bool:
        """Wait for the next try; return whether there is one, instead of a stop."""
        while not self._stopping:
            left = self.retry_seconds
            if left is not None and left <= 0:
                return True
            await self._requests.wait(left)
        return False

    async def _until_over(
        self, work: Coroutine[Any, Any, None], ended: Coroutine[Any, Any, object] | None = None
    ) -> None:
        """Run ``work`` until it raises, the process has ``ended``, or a stop is requested; then let the calls
        in progress end. Raises what ``work`` raised."""
        ending = asyncio.create_task(ended if ended is not None else asyncio.Event().wait())
        stop = asyncio.create_task(self._requests.wait_for(lambda: self._stopping), name=f"stop {self.name}")
        working = asyncio.create_task(work, name=f"work {self.name}")
        tasks = (ending, stop, working)
        try:
            await asyncio.wait({ending, stop, working}, return_when=asyncio.FIRST_COMPLETED)
            if self.state is EngineState.READY and not ending.done() and not working.done():
                self._move(EngineEvent.DRAIN)
                idle = asyncio.create_task(self._idle.wait())
                await asyncio.wait(
                    {ending, idle}, timeout=self._drain_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                idle.cancel()
            if working.done():
                working.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, client: EngineClient, check_health: Callable[[float], Awaitable[object]]) -> None:
        """Look after a ready engine for ever, as the liveness policy says. ``check_health`` is given its
        deadline.

        Raises:
            EngineError: it hangs, or one of the checks raised it.
        """
        policy, probed_at = self._surroundings.liveness, 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._suspected.wait(), policy.tick_seconds)
            if self._suspected.is_set():
                self._suspected.clear()
                await self._check_work(client)
            if not self.in_flight and time.monotonic() - client.last_received < policy.idle_seconds:
                continue
            signs = await self._look(client, probed_at)
            probe = decide_probe(policy, signs, self._when_still)
            if probe is Probe.HUNG:
                raise EngineError(self._describe_hang(signs))
            if probe is not Probe.NOTHING:
                probed_at = time.monotonic()
            if probe is Probe.HEALTH:
                await check_health(policy.health_deadline_seconds)
            elif probe is Probe.WORK:
                await self._check_work(client)

    async def _check_work(self, client: EngineClient) -> None:
        """Ask for something small. While it works on something else it may take longer than its deadline:
        some cannot stop what a caller has given up."""
        policy, began = self._surroundings.liveness, time.monotonic()
        asking = asyncio.create_task(self._checks.check_alive(client, self._rules))
        try:
            while not (await asyncio.wait({asking}, timeout=policy.tick_seconds))[0]:
                signs = await self._look(client, began)
                if signs.probed >= policy.work_deadline_seconds and not works(policy, signs):
                    seconds = f"{signs.probed:.0f} seconds"
                    raise EngineError(f"it hangs: no answer to a small request for {seconds}")
            asking.result()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    @property
    def _when_still(self) -> Probe:
        """Return what follows when it owes answers and gives no sign of work."""
        return Probe.HEALTH if self._rules.health_while_computing else Probe.NOTHING

    async def _last_sign(self, client: EngineClient) -> float:
        """Return when it last gave a sign of work, in monotonic seconds."""
        return client.last_received

    async def _look(self, client: EngineClient, probed_at: float) -> Signs:
        """Return what is seen of it now; what it was asked last may be on top of what it owes."""
        sign = await self._last_sign(client)
        now, weights = time.monotonic(), self.plan.memory.weights if self.plan.memory else 0
        tokens = self._owed_tokens + self._most_tokens(0)
        return Signs(
            silent=now - client.last_received,
            still=now - sign,
            probed=now - probed_at,
            allowed=longest_silence(self._surroundings.liveness, tokens, weights),
            in_flight=self.in_flight,
        )

    def _most_tokens(self, estimated: int) -> int:
        """Return how many tokens a request may come to: at least a whole context, whatever was estimated."""
        return max(estimated, self.plan.settings.context)

    def _describe_hang(self, signs: Signs) -> str:
        if signs.silent >= signs.allowed:
            return f"it hangs: no answer for {signs.silent:.0f} seconds, which is more than its work can take"
        return f"it hangs: neither an answer nor a sign of work for {signs.still:.0f} seconds"

    async def _end(self, grace_seconds: float) -> None:
        try:
            await self._close(grace_seconds)
        except Error as error:
            _LOG.warning("%s: %s", self.name, error.describe())
        except Exception:  # whatever it was, the engine's own life goes on, or has its end
            _LOG.exception("%s: a defect of ours while it was ended", self.name)

    def _note_client(self, client: object) -> None:
        """Remember that ``client`` belongs to this life."""
        self._fates[client] = _Fate(self._life.tries, asyncio.get_running_loop().create_future())

    def _settle_fates(self, death: Diagnosis) -> None:
        for fate in self._fates.values():
            if not fate.known.done():
                fate.known.set_result(death)

    def _move(self, event: EngineEvent) -> None:
        before = self.state
        self._life.move(event)
        self._tell_move(before)

    def _tell_move(self, before: EngineState) -> None:
        now = time.monotonic()
        spent, self._since = now - self._since, now
        self._transitions.append(Transition(time.time(), self.state, spent))
        _LOG.info("%s: %s -> %s after %.2f s", self.name, before.value, self.state.value, spent)
        self._surroundings.changed()


def gone_for_long(backend: Backend) -> bool:
    """Tell whether waiting for it makes no sense."""
    if backend.state is EngineState.BACKING_OFF:
        return (backend.retry_seconds or 0.0) > _LONGEST_HELD_BACKOFF_SECONDS
    return backend.over


def not_settled(model: str, backend: Backend) -> EngineStartError:
    """Return the error for a new engine that cannot take the place of an old one."""
    return EngineStartError(
        f"the new engine of {model} did not become ready; the old one serves on",
        cause=backend.cause.cause if backend.cause else None,
        hint=f"its log: {backend.log.path}",
    )
