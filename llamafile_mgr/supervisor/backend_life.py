"""The life of every member of a pool, whether it runs here or elsewhere: one task carries out what its
``Lifecycle`` decides, and is the only writer of its state; others read it and leave wishes."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from llamafile_mgr.changes import Changes
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.errors import Error
from llamafile_mgr.supervisor.diagnosis import Diagnosis
from llamafile_mgr.supervisor.engine_log import EngineLog
from llamafile_mgr.supervisor.lifecycle import Aftermath, Lifecycle
from llamafile_mgr.supervisor.meters import EngineMeter, MeteredWork
from llamafile_mgr.supervisor.snapshots import EngineSnapshot, EngineSurroundings, Transition
from llamafile_mgr.supervisor.states import EngineEvent, EngineState

__all__ = ["FAILED_GRACE_SECONDS", "BackendLife"]

_LOG = logging.getLogger("llamafile_mgr.supervisor")
#: For the diagnosis of a death that a call has seen: its process is gone, so little is left to wait for.
_FATE_SECONDS = 5.0
#: For what is left of a life that has failed: nothing of value is in it.
FAILED_GRACE_SECONDS = 2.0
_STOPPED = Diagnosis("it was stopped", external=True)


@dataclass(slots=True)
class _Fate:
    """What became of the try of this ``number``."""

    number: int
    known: asyncio.Future[Diagnosis]


class BackendLife(ABC):
    """The base of ``Engine`` and ``Remote``. ``width``: how many engines stand behind it."""

    def __init__(
        self, name: str, log: EngineLog, settings: LaunchSettings, surroundings: EngineSurroundings
    ) -> None:
        self.name = name
        self.log = log
        self.in_flight = 0
        self.served = 0
        self.width = 1
        self.meter = EngineMeter(surroundings.speed, None)
        self._surroundings = surroundings
        self._life = Lifecycle(surroundings.restart, settings)
        self._since = time.monotonic()
        self._transitions: deque[Transition] = deque(maxlen=32)
        self._fates: weakref.WeakKeyDictionary[object, _Fate] = weakref.WeakKeyDictionary()
        self._idle = asyncio.Event()
        self._idle.set()
        self._wishes = Changes()
        self._stopping = False
        self._drain_seconds = 0.0
        self._suspected = asyncio.Event()

    # What others may ask and do.

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
        return self.meter.begin(tokens, time.monotonic()) if tokens else None

    def end(self, job: MeteredWork | None, *, answered: bool) -> None:
        """Count a batch's end, and tell when the engine has become slow, or fast again."""
        if job is not None and self.meter.end(job, time.monotonic(), answered=answered):
            said = "is slow" if self.meter.slow else "is as fast again as it was"
            share = 100 * (self.meter.share or 0.0)
            _LOG.warning("%s %s: %.0f %% of the best throughput that it has shown", self.name, said, share)
        self.in_flight -= 1
        self.served += answered
        if self.in_flight == 0:
            self._idle.set()
            self._surroundings.changed()

    def request_stop(self, drain_seconds: float) -> None:
        """Ask it to finish its calls within ``drain_seconds``, take no more, and end."""
        self._drain_seconds = drain_seconds
        self._stopping = True
        self._wishes.announce()

    def suspect(self) -> None:
        """Say that an answer was not right; it is checked now, and lost if it is to blame."""
        self._suspected.set()

    async def fate(self, client: object) -> Diagnosis | None:
        """Return why what stood behind ``client`` ended, None while nothing is known of its end; waits a
        moment for the diagnosis. One that we ended was ended by somebody, as its ``external`` says."""
        fate = self._fates.get(client)
        if fate is None:
            return None
        await asyncio.wait({fate.known}, timeout=_FATE_SECONDS)
        return fate.known.result() if fate.known.done() else None

    async def was_ended(self, client: object) -> bool:
        """Tell whether what stood behind ``client`` was ended by somebody, so that no request is to blame."""
        fate = await self.fate(client)
        return fate is not None and fate.external

    def excuse_death(self, client: object) -> None:
        """Say that a request is to blame for the end of what stood behind ``client``, once its fate is known:
        it does not count against the budget of restarts, and one that waits or has failed for it is started
        again."""
        fate = self._fates.get(client)
        if fate is not None and self._life.excuse(fate.number, time.monotonic()):
            self._wishes.announce()

    def snapshot(self) -> EngineSnapshot:
        """Return what ``status`` shows."""
        return EngineSnapshot(
            name=self.name,
            state=self.state,
            age_seconds=time.monotonic() - self._since,
            pid=None,
            port=None,
            restarts=max(0, self._life.tries - 1),
            in_flight=self.in_flight,
            served=self.served,
            cause=self.cause.cause if self.cause else None,
            steps=self._life.steps,
            retry_seconds=self.retry_seconds,
            transitions=tuple(self._transitions),
            log=str(self.log.path),
        )

    # Its life; everything below runs in one task.

    @abstractmethod
    async def _live_once(self) -> Diagnosis | None:
        """Live until it is lost or shall stop; return why it was lost. May raise anything instead."""

    @abstractmethod
    def _explain(self, error: Error) -> Diagnosis:
        """Return what an error says of the end of a life."""

    @abstractmethod
    async def _note_death(self, death: Diagnosis, aftermath: Aftermath) -> None:
        """Log a death, and take in what follows from it."""

    @abstractmethod
    async def _close(self, grace_seconds: float) -> None:
        """Leave nothing of this life behind; another may follow."""

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
        aftermath = self._life.die(death, served=self.served, now=now, jitter=random.random())  # noqa: S311
        self._tell_move(before)
        self._settle_fates(death)
        await self._note_death(death, aftermath)

    async def _is_due(self) -> bool:
        """Wait for the next try; return whether there is one, instead of a stop."""
        while not self._stopping:
            left = self.retry_seconds
            if left is not None and left <= 0:
                return True
            await self._wishes.wait(left)
        return False

    async def _until_over(
        self, work: Coroutine[Any, Any, None], ended: Coroutine[Any, Any, object] | None = None
    ) -> None:
        """Run ``work`` until it raises, the process has ``ended``, or a stop is requested; then let the calls
        in progress end. Raises what ``work`` raised."""
        ending = asyncio.create_task(ended if ended is not None else asyncio.Event().wait())
        stop = asyncio.create_task(self._wishes.wait_for(lambda: self._stopping), name=f"stop {self.name}")
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
