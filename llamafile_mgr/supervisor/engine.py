"""The life of one engine: start, become ready, be watched, start again, drain, stop.

One task runs ``Engine.run`` and is the only writer of the engine's state; others read it and leave requests
(``request_stop``, ``suspect``).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import weakref
from collections import deque
from dataclasses import replace

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, Error, StoreError
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.course import Course
from llamafile_mgr.supervisor.diagnosis import Diagnosis, diagnose
from llamafile_mgr.supervisor.ladder import drop_flags, step_down
from llamafile_mgr.supervisor.logs import EngineLog
from llamafile_mgr.supervisor.memory import count_oom_kills
from llamafile_mgr.supervisor.meters import EngineMeter
from llamafile_mgr.supervisor.ports import choose_port, read_listening_port
from llamafile_mgr.supervisor.process import EngineProcess, spawn_engine
from llamafile_mgr.supervisor.restart import decide_restart
from llamafile_mgr.supervisor.snapshots import EngineSnapshot, EngineSurroundings
from llamafile_mgr.supervisor.starting import EngineChecks, StallTimer, await_health, find_port
from llamafile_mgr.supervisor.states import EngineEvent, EngineState
from llamafile_mgr.supervisor.watching import set_within, watch

__all__ = ["Engine"]

_LOG = logging.getLogger("llamafile_mgr.supervisor")
#: For the process of a start that failed: nothing of value is in it.
_FAILED_GRACE_SECONDS = 2.0
#: For the diagnosis of a death that a call has seen: its process is gone, so little is left to wait for.
_FATE_SECONDS = 5.0


class Engine(Course):
    """One engine. Only the task that runs ``run`` changes its state; everybody may read it."""

    def __init__(self, name: str, plan: Plan, checks: EngineChecks, surroundings: EngineSurroundings) -> None:
        super().__init__(name, EngineLog(surroundings.logs / f"{name}.log"), surroundings)
        self.plan = plan
        self.rules = family_rules(plan.family)
        self.client: EngineClient | None = None
        self._served_before = 0
        self._checks = checks
        self._settings = plan.settings
        self.meter = self._make_meter()
        self._dropped: list[str] = []
        self._steps: list[str] = []
        self._process: EngineProcess | None = None
        self._port: int | None = None
        self._starts = 0
        self._was_ready = False
        self._deaths: deque[float] = deque(maxlen=64)
        self._fates: weakref.WeakKeyDictionary[object, asyncio.Future[Diagnosis]] = (
            weakref.WeakKeyDictionary()
        )

    # What others may ask and do.

    @property
    def ready(self) -> bool:
        """Tell whether calls may be sent to ``client``."""
        return self.state is EngineState.READY

    @property
    def pid(self) -> int | None:
        """Return the process id while there is a process."""
        return self._process.pid if self._process else None

    def _make_meter(self) -> EngineMeter:
        """Return a meter for the present settings; what generations take is a guess and not judged."""
        judged = self.plan.role is not Role.GENERATE
        surroundings = self._surroundings
        return EngineMeter(surroundings.speed, surroundings.best_rates(self._settings) if judged else None)

    async def was_ended(self, client: object) -> bool:
        """Tell whether the process behind ``client``, an earlier one of ours, was ended by somebody, so that
        no request is to blame; waits a moment for the diagnosis."""
        fate = self._fates.get(client)
        if fate is None:
            return False
        await asyncio.wait({fate}, timeout=_FATE_SECONDS)
        return fate.done() and (fate.cancelled() or fate.result().external)

    def excuse_death(self, client: object) -> None:
        """STUB"""

    def snapshot(self) -> EngineSnapshot:
        """Return what ``status`` shows."""
        return EngineSnapshot(
            name=self.name,
            state=self.state,
            age_seconds=time.monotonic() - self._since,
            pid=self.pid,
            port=self._port,
            restarts=max(0, self._starts - 1),
            in_flight=self.in_flight,
            served=self.served,
            cause=self.cause.cause if self.cause else None,
            steps=tuple(self._steps),
            retry_seconds=self.retry_seconds,
            transitions=tuple(self._transitions),
            log=str(self.log.path),
            speed=self.meter.share,
            slow=self.meter.slow,
        )

    # Its life; everything below runs in one task.

    async def run(self) -> None:
        """Keep the engine alive until a stop is requested, or this task is cancelled."""
        event = EngineEvent.SPAWN
        try:
            while True:
                self._move(event)
                death = await self._live_once()
                if death is None:
                    return
                self.cause = death
                self._settle_fates(death)
                _LOG.warning("%s died: %s", self.name, death.cause)
                delay = self._decide_restart(death)
                if delay is None:
                    self._move(EngineEvent.GIVE_UP)
                    await self._stop.wait()
                    return
                self._retry_at = time.monotonic() + delay
                self._move(EngineEvent.DIED)
                if await set_within(self._stop, delay):
                    return
                event = EngineEvent.RETRY
        finally:
            self._retry_at = None
            self._settle_fates(None)
            self._move(EngineEvent.STOP)
            await asyncio.shield(self._end_process(self._surroundings.grace_seconds))
            if self.state is EngineState.STOPPING:
                self._move(EngineEvent.GONE)

    def _settle_fates(self, death: Diagnosis | None) -> None:
        """Tell those who wait for it why the process ended; None when we ended it."""
        for fate in self._fates.values():
            if not fate.done():
                fate.cancel() if death is None else fate.set_result(death)

    def _decide_restart(self, death: Diagnosis) -> float | None:
        now = time.monotonic()
        if self.served > self._served_before:
            # It worked in this life, so this is no crash loop: what killed it came from outside or is rare.
            self._deaths.clear()
            self._half_open = False
        self._served_before = self.served
        self._deaths.append(now)
        step = step_down(self._settings, death, self._dropped)
        if step is not None:
            self._settings = step.settings
            self.meter = self._make_meter()
            self._steps.append(step.text)
            if step.dropped is not None:
                self._dropped.append(step.dropped)
            return self._surroundings.restart.first_delay_seconds
        if death.permanent:
            return None
        restart = decide_restart(
            self._surroundings.restart,
            self._deaths,
            now,
            random.random(),  # noqa: S311
            was_ready=self._was_ready,
            half_open=self._half_open,
        )
        self._half_open = restart is not None and restart.half_open
        return restart.delay_seconds if restart is not None else None

    async def _live_once(self) -> Diagnosis | None:
        """Start the engine once; return why it died, None when it shall stop."""
        self._starts += 1
        started = time.monotonic()
        kills = await asyncio.to_thread(count_oom_kills)
        try:
            listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            key, process = await self._spawn(listening)
            failure = await self._live(process, listening, key)
        except Error as error:
            return Diagnosis(error.describe(), error.hint, permanent=isinstance(error, StoreError))
        except Exception as error:  # the boundary of one start: a defect must show as a failed engine
            _LOG.exception("%s: defect", self.name)
            return Diagnosis(f"a defect of ours: {type(error).__name__}: {error}", permanent=True)
        if self._stop.is_set():
            return None
        code = process.exit_code
        await self._end_process(_FAILED_GRACE_SECONDS)
        if failure is not None and code is None:
            return Diagnosis(failure.describe(), failure.hint)
        killed = await asyncio.to_thread(count_oom_kills) > kills
        return diagnose(code, self.log.lines[-40:], time.monotonic() - started, oom_killed=killed)

    async def _live(
        self, process: EngineProcess, listening: asyncio.Future[int], key: str
    ) -> EngineError | None:
        """Bring it to readiness and watch it until it ends, fails a check, or shall stop.

        Returns what it did wrong, None when it ended by itself or shall stop.
        """
        ended = asyncio.create_task(process.wait(), name=f"wait {self.name}")
        stop = asyncio.create_task(self._stop.wait(), name=f"stop {self.name}")
        work = asyncio.create_task(self._work(process, listening, key), name=f"work {self.name}")
        try:
            await asyncio.wait({ended, stop, work}, return_when=asyncio.FIRST_COMPLETED)
            if self.state is EngineState.READY and stop.done() and not ended.done():
                self._move(EngineEvent.DRAIN)
                idle = asyncio.create_task(self._idle.wait())
                await asyncio.wait(
                    {ended, idle}, timeout=self._drain_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                idle.cancel()
            if work.done() and not work.cancelled():
                error = work.exception()
                if error is not None and not isinstance(error, EngineError):
                    raise error
                return error
            return None
        finally:
            for task in (ended, stop, work):
                task.cancel()
            await asyncio.gather(ended, stop, work, return_exceptions=True)

    async def _work(self, process: EngineProcess, listening: asyncio.Future[int], key: str) -> None:
        """Become ready, then watch for ever; raises EngineError for what the engine does wrong."""
        timer = StallTimer(process, self._surroundings.stall_seconds, lambda: "; ".join(self.log.lines[-3:]))
        self._port = await timer.run(find_port(process.pid, self._port or 0, listening))
        client = self.client = EngineClient(self.plan.settings.host, self._port, api_key=key)
        self._fates[client] = asyncio.get_running_loop().create_future()
        await timer.run(await_health(client, self.rules))
        self._move(EngineEvent.ANSWERS)
        await timer.run(self._checks.check_ready(client, self.rules))
        self._was_ready = True
        self._suspected.clear()
        self._move(EngineEvent.CHECKED)
        await watch(
            client,
            self._surroundings.liveness,
            suspected=self._suspected,
            in_flight=lambda: self.in_flight,
            check_health=lambda seconds: client.request(self.rules.health(), deadline_seconds=seconds),
            check_alive=lambda: self._checks.check_alive(client, self.rules),
        )

    async def _spawn(self, listening: asyncio.Future[int]) -> tuple[str, EngineProcess]:
        surroundings = self._surroundings
        home = await asyncio.to_thread(ensure_private_dir, surroundings.home)
        key, key_file = await asyncio.to_thread(surroundings.registry.write_key, self.name)
        port = 0 if self.rules.picks_port else choose_port(self._settings.host)
        self._port = port

        def note_line(line: str) -> None:
            found = read_listening_port(line)
            if found is not None and not listening.done():
                listening.set_result(found)

        plan = replace(self.plan, settings=self._settings)
        command = drop_flags(plan.command(port, key_file), self._dropped)
        _LOG.info("%s: %s", self.name, " ".join(command))
        process = self._process = await spawn_engine(command, plan.environment, home, self.log, note_line)
        await asyncio.to_thread(surroundings.registry.note_engine, self.name, process.pid)
        return key, process

    async def _end_process(self, grace_seconds: float) -> None:
        client, self.client = self.client, None
        if client is not None:
            await client.close()
        process, self._process = self._process, None
        if process is not None:
            await process.stop(grace_seconds)
            await asyncio.to_thread(self._surroundings.registry.forget_engine, self.name)
        self._port = None
