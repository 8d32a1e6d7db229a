"""The life of one engine: start, become ready, watch, restart, stop. One task writes its state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.engines.families import EngineFamily, family_rules
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineStartError, Error, StoreError
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.diagnosis import Diagnosis, diagnose
from llamafile_mgr.supervisor.logs import EngineLog
from llamafile_mgr.supervisor.ports import choose_port, listens_on, read_listening_port
from llamafile_mgr.supervisor.process import EngineProcess, spawn_engine
from llamafile_mgr.supervisor.restart import RestartPolicy, decide_restart
from llamafile_mgr.supervisor.states import EngineEvent, EngineState, next_state

__all__ = ["Engine", "EngineSnapshot", "EngineSurroundings", "ReadinessCheck"]

_LOG = logging.getLogger("llamafile_mgr.supervisor")
_POLL_SECONDS = 0.02
_HEALTH_SECONDS = 5.0
_OWNERSHIP_SECONDS = 1.0
_STOP_FAILED_SECONDS = 2.0

#: Raises EngineError when the engine does not do its work right; its message tells what was wrong.
ReadinessCheck = Callable[[EngineClient, EngineFamily], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class EngineSurroundings:
    """Directories and deadlines that engines share. ``changed`` is called after every transition."""

    logs: Path
    home: Path
    runtime: Path
    stall_seconds: float
    policy: RestartPolicy
    changed: Callable[[], None]


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """What can be told of an engine now; ``cause`` is why it last died, ``age_seconds`` of its state."""

    name: str
    state: EngineState
    age_seconds: float
    pid: int | None
    port: int | None
    restarts: int
    in_flight: int
    cause: str | None
    log: str


class Engine:
    """One engine. Only the task that runs ``run`` changes its state; everybody may read it."""

    def __init__(
        self, name: str, plan: Plan, check: ReadinessCheck, surroundings: EngineSurroundings
    ) -> None:
        self.name = name
        self.plan = plan
        self.rules = family_rules(plan.family)
        self.state = EngineState.PLANNED
        self.client: EngineClient | None = None
        self.cause: Diagnosis | None = None
        self.in_flight = 0
        self._check = check
        self._surroundings = surroundings
        self._since = time.monotonic()
        self._process: EngineProcess | None = None
        self._port: int | None = None
        self._starts = 0
        self._was_ready = False
        self._deaths: deque[float] = deque(maxlen=64)
        self._log = EngineLog(surroundings.logs / f"{name}.log")

    @property
    def ready(self) -> bool:
        """Tell whether calls may be sent to ``client``."""
        return self.state is EngineState.READY

    def snapshot(self) -> EngineSnapshot:
        """Return what ``status`` shows."""
        return EngineSnapshot(
            name=self.name,
            state=self.state,
            age_seconds=time.monotonic() - self._since,
            pid=self._process.pid if self._process else None,
            port=self._port,
            restarts=max(0, self._starts - 1),
            in_flight=self.in_flight,
            cause=self.cause.cause if self.cause else None,
            log=str(self._log.path),
        )

    async def run(self, grace_seconds: float) -> None:
        """Keep the engine alive until this task is cancelled, then end it within ``grace_seconds``."""
        event = EngineEvent.SPAWN
        try:
            while True:
                self._move(event)
                self.cause = await self._live_once()
                delay = self._decide_restart(self.cause)
                _LOG.warning("%s died: %s", self.name, self.cause.cause)
                if delay is None:
                    self._move(EngineEvent.GIVE_UP)
                    await asyncio.get_running_loop().create_future()  # until we are stopped
                    return
                self._move(EngineEvent.DIED)
                await asyncio.sleep(delay)
                event = EngineEvent.RETRY
        finally:
            self._move(EngineEvent.STOP)
            await asyncio.shield(self._end_process(grace_seconds))
            if self.state is EngineState.STOPPING:
                self._move(EngineEvent.GONE)

    def _decide_restart(self, diagnosis: Diagnosis) -> float | None:
        now = time.monotonic()
        self._deaths.append(now)
        if diagnosis.permanent:
            return None
        jitter = random.random()  # noqa: S311
        return decide_restart(self._surroundings.policy, self._deaths, now, jitter, was_ready=self._was_ready)

    def _move(self, event: EngineEvent) -> None:
        before, self.state = self.state, next_state(self.state, event)
        now = time.monotonic()
        _LOG.info("%s: %s -> %s after %.2f s", self.name, before.value, self.state.value, now - self._since)
        self._since = now
        self._surroundings.changed()

    async def _live_once(self) -> Diagnosis:
        """Start the engine once and return why it died; cancelled when it shall stop."""
        self._starts += 1
        started = time.monotonic()
        try:
            key, key_file = await asyncio.to_thread(self._write_key)
            listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            process = await self._spawn(key_file, listening)
            ended = asyncio.create_task(process.wait(), name=f"wait {self.name}")
            try:
                failure = await self._live(process, ended, listening, key)
            finally:
                ended.cancel()
                await asyncio.gather(ended, return_exceptions=True)
        except Error as error:
            return Diagnosis(error.describe(), error.hint, permanent=isinstance(error, StoreError))
        except Exception as error:  # the boundary of one start: a defect must show as a failed engine
            _LOG.exception("%s: defect", self.name)
            return Diagnosis(f"a defect of ours: {type(error).__name__}: {error}", permanent=True)
        uptime = time.monotonic() - started
        code = process.exit_code
        await self._end_process(_STOP_FAILED_SECONDS)
        if failure is not None and code is None:
            return Diagnosis(failure.describe(), failure.hint)
        return diagnose(code, self._log.lines[-40:], uptime)

    async def _live(
        self,
        process: EngineProcess,
        ended: asyncio.Task[int],
        listening: asyncio.Future[int],
        key: str,
    ) -> EngineError | None:
        """Bring a started engine to readiness and watch it; return what it did wrong, None if it ended."""
        becoming = asyncio.create_task(self._become_ready(process, listening, key))
        try:
            await asyncio.wait({becoming, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not becoming.done():
                return None
            error = becoming.exception()
            if isinstance(error, EngineError):
                return error
            if error is not None:
                raise error
        finally:
            becoming.cancel()
            await asyncio.gather(becoming, return_exceptions=True)
        await asyncio.shield(ended)
        return None

    async def _spawn(self, key_file: Path, listening: asyncio.Future[int]) -> EngineProcess:
        surroundings = self._surroundings
        home = await asyncio.to_thread(ensure_private_dir, surroundings.home)
        self._port = 0 if self.rules.picks_port else choose_port(self.plan.settings.host)

        def note_line(line: str) -> None:
            port = read_listening_port(line)
            if port is not None and not listening.done():
                listening.set_result(port)

        command = self.plan.command(self._port, key_file)
        _LOG.info("%s: %s", self.name, " ".join(command))
        self._process = await spawn_engine(command, self.plan.environment, home, self._log, note_line)
        return self._process

    def _write_key(self) -> tuple[str, Path]:
        """Write this start's API key where only we can read it; argv and environment stay free of it."""
        key = secrets.token_urlsafe(32)
        path = ensure_private_dir(self._surroundings.runtime) / f"{self.name}.key"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(key + "\n")
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error
        return key, path

    async def _become_ready(self, process: EngineProcess, listening: asyncio.Future[int], key: str) -> None:
        """Wait for the port, the health route and the readiness check; log output resets the deadline."""
        port = await self._within_stall(process, self._find_port(process, listening))
        self._port = port
        client = EngineClient(self.plan.settings.host, port, api_key=key)
        self.client = client
        await self._within_stall(process, self._await_health(client))
        self._move(EngineEvent.ANSWERS)
        await self._within_stall(process, self._check(client, self.rules))
        self.cause = None
        self._was_ready = True
        self._move(EngineEvent.CHECKED)

    async def _within_stall(self, process: EngineProcess, work: Awaitable[int | None]) -> int:
        """Await ``work`` for as long as the engine says something now and then; return its result."""
        stall = self._surroundings.stall_seconds
        task = asyncio.ensure_future(work)
        began = time.monotonic()
        try:
            while not task.done():
                left = max(process.last_output, began) + stall - time.monotonic()
                if left <= 0:
                    raise EngineStartError(
                        f"it was silent for {stall:g} seconds before it was ready",
                        cause="; ".join(self._log.lines[-3:]) or "it printed nothing",
                    )
                await asyncio.wait({task}, timeout=left)
            return task.result() or 0
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _find_port(self, process: EngineProcess, listening: asyncio.Future[int]) -> int:
        """Return the port that the engine prints or, where it prints none, the chosen one once it is its."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                return await asyncio.wait_for(asyncio.shield(listening), _OWNERSHIP_SECONDS)
            chosen = self._port
            if chosen and await asyncio.to_thread(listens_on, process.pid, chosen):
                return chosen

    async def _await_health(self, client: EngineClient) -> None:
        while True:
            with contextlib.suppress(EngineError):
                reply = await client.request(self.rules.health(), deadline_seconds=_HEALTH_SECONDS)
                if reply.status == 200:
                    return
            await asyncio.sleep(_POLL_SECONDS)

    async def _end_process(self, grace_seconds: float) -> None:
        client, self.client = self.client, None
        if client is not None:
            await client.close()
        process, self._process = self._process, None
        if process is not None:
            await process.stop(grace_seconds)
        self._port = None
