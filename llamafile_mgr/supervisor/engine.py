"""One engine of this machine: its process is started, becomes ready, is watched, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import TypeVar

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.engine_args import drop_flags
from llamafile_mgr.engines.engine_reports import LogReader
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineLostError, EngineStartError, Error, StoreError
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.planner.deviations import RunFacts, actual_run, find_deviations, planned_run
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.ape_loader import clear_way
from llamafile_mgr.supervisor.backend import FAILED_GRACE_SECONDS, Backend
from llamafile_mgr.supervisor.diagnosis import NOT_RUN, Diagnosis, diagnose
from llamafile_mgr.supervisor.engine_start import (
    EngineChecks,
    await_health,
    await_unless_silent,
    choose_port,
    find_port,
    observe_engine,
    read_listening_port,
)
from llamafile_mgr.supervisor.liveness import Probe, Pulse
from llamafile_mgr.supervisor.process import EngineProcess, Spawner, spawn_engine
from llamafile_mgr.supervisor.process_memory import count_oom_kills
from llamafile_mgr.supervisor.snapshots import EngineSnapshot, EngineSurroundings
from llamafile_mgr.supervisor.states import EngineEvent, EngineState

T = TypeVar("T")
_LOG = logging.getLogger("llamafile_mgr.supervisor")
#: Of an engine that was ready: what it said before has not killed it.
_LAST_LINES = 40
#: For the end of a process that has broken off its connections.
_GONE_SECONDS = 1.0


class Engine(Backend):
    """One engine. ``spawn`` starts its process."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        checks: EngineChecks,
        surroundings: EngineSurroundings,
        spawn: Spawner = spawn_engine,
    ) -> None:
        # What generations take is a guess and not judged.
        super().__init__(name, plan, name, surroundings, judged=plan.role is not Role.GENERATE)
        self._checks = checks
        self._spawn = spawn
        self._process: EngineProcess | None = None
        self._log_reader: LogReader | None = None
        self._actual: RunFacts | None = None
        self._deviations: tuple[str, ...] = ()
        self._pulse = Pulse()

    # What others may ask and do.

    @property
    def ready(self) -> bool:
        """Tell whether calls may be sent to ``client``; it is gone a little before its death is diagnosed."""
        return self.state is EngineState.READY and self.client is not None

    @property
    def pid(self) -> int | None:
        """Return the process id while there is a process."""
        return self._process.pid if self._process else None

    def snapshot(self) -> EngineSnapshot:
        """Return what ``status`` shows."""
        return replace(
            super().snapshot(),
            planned=planned_run(self.plan, self._life.settings),
            actual=self._actual,
            deviations=self._deviations,
        )

    # Its life; everything below runs in one task.

    async def _live_once(self) -> Diagnosis | None:
        started, lines_before = time.monotonic(), self.log.total_lines
        kills = await asyncio.to_thread(count_oom_kills)
        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        key, process = await self._start(listening)
        failure = None
        try:
            await self._until_over(self._work(process, listening, key), process.wait())
        except EngineError as error:
            failure = error
            if isinstance(error, EngineLostError):  # its connections are seen to end before its process
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _GONE_SECONDS)
        if self._stopping:
            return None
        code, was_ready = process.exit_code, self.state is EngineState.READY
        suspended = code is None and await asyncio.to_thread(lambda: process.suspended)
        await self._close(FAILED_GRACE_SECONDS)
        if failure is not None and code is None:
            return replace(self._explain(failure), external=suspended)
        killed = await asyncio.to_thread(count_oom_kills) > kills
        count = self.log.total_lines - lines_before
        # At its start all count: old servers print a page of usage behind what was wrong with a flag.
        count = min(count, _LAST_LINES) if was_ready else count
        lines = self.log.lines[-count:] if count else ()
        obstacle = None
        if code in NOT_RUN and not was_ready:
            obstacle = await asyncio.to_thread(clear_way, self.plan.program, self.plan.environment)
        uptime = time.monotonic() - started
        return diagnose(code, lines, uptime, oom_killed=killed, obstacle=obstacle)

    def _explain(self, error: Error) -> Diagnosis:
        # A disk that is full or a directory that is gone is nothing that the engine did.
        return Diagnosis(error.describe(), error.hint, curable=isinstance(error, StoreError))

    async def _note_death(self, death: Diagnosis) -> None:
        _LOG.warning("%s died: %s", self.name, death.cause)

    async def _work(self, process: EngineProcess, listening: asyncio.Future[int], key: str) -> None:
        """Become ready, then watch for ever; raises EngineError for what the engine does wrong."""

        def within_silence(work: Awaitable[T]) -> Awaitable[T]:
            return await_unless_silent(work, process, self._surroundings.stall_seconds, self.log)

        self._port = await within_silence(find_port(process.pid, self._port or 0, listening))
        client = self.client = EngineClient(self.plan.settings.host, self._port, api_key=key)
        self._note_client(client)
        await within_silence(await_health(client, self._rules))
        self._move(EngineEvent.ANSWERS)
        answered_at = time.monotonic()
        await within_silence(self._checks.check_ready(client, self._rules))
        await process.catch_up(answered_at)
        await self._compare(client, process)
        self._suspected.clear()
        process.note_ready()
        self._move(EngineEvent.CHECKED)
        self._pulse = Pulse()
        await self._watch(client, lambda seconds: self._check_health(client, seconds))

    async def _check_health(self, client: EngineClient, seconds: float) -> None:
        """Ask the health route; raises EngineError when nothing comes and it still gives no sign of work."""
        try:
            await client.request(self._rules.health(), deadline_seconds=seconds)
        except EngineLostError:
            raise
        except EngineError:
            if time.monotonic() - await self._last_sign(client) >= seconds:
                raise

    @property
    def _when_still(self) -> Probe:
        """A processor's work shows in its time; a GPU's need not."""
        asked = super()._when_still
        return Probe.HUNG if asked is Probe.NOTHING and self.plan.device == "cpu" else asked

    async def _last_sign(self, client: EngineClient) -> float:
        """Count lines that it logs, and look at its process while it sends nothing."""
        now, process = time.monotonic(), self._process
        if process is None or now - client.last_received < self._surroundings.liveness.tick_seconds:
            return client.last_received
        effort = await asyncio.to_thread(process.effort)
        if effort is None:  # nobody can see it, so nothing can be held against it
            return now
        self._pulse.feel(effort, now, self._surroundings.liveness.still_seconds)
        return max(client.last_received, process.last_output, self._pulse.at)

    async def _compare(self, client: EngineClient, process: EngineProcess) -> None:
        """Find out how it runs, and tell what differs from the plan.

        Raises:
            EngineStartError: a GPU is required, and less of it is used than was planned.
        """
        assert self._log_reader is not None  # noqa: S101
        reader, self._log_reader = self._log_reader, None
        settings = self._life.settings
        report = await observe_engine(client, self._rules, reader.report(), process.pid, settings)
        deviations = find_deviations(self.plan, settings, report)
        self._actual = actual_run(report)
        self._deviations = tuple(each.describe() for each in deviations)
        for text in self._deviations:
            _LOG.warning("%s does not run as planned: %s", self.name, text)
        of_gpu = next((each for each in deviations if each.of_gpu), None)
        if settings.gpu_required and of_gpu is not None:
            raise EngineStartError(
                f"it does not use the GPU as its settings require: {of_gpu.describe()}",
                hint=f'`llamafile-mgr doctor`; or unset require_gpu in [models."{self.plan.name}"]',
            )

    async def _start(self, listening: asyncio.Future[int]) -> tuple[str, EngineProcess]:
        surroundings = self._surroundings
        home = await asyncio.to_thread(ensure_private_dir, surroundings.home)
        key, key_file = await asyncio.to_thread(surroundings.registry.write_key, self.name)
        settings = self._life.settings
        port = 0 if self._rules.picks_port else choose_port(settings.host)
        self._port = port

        reader = self._log_reader = LogReader(self._rules.log_words)
        self._actual, self._deviations = None, ()

        def note_line(line: str) -> None:
            if self._log_reader is reader:
                reader.note(line)
            found = read_listening_port(line)
            if found is not None and not listening.done():
                listening.set_result(found)

        plan = replace(self.plan, settings=settings)
        command = drop_flags(plan.command(port, key_file), self._life.dropped)
        _LOG.info("%s: %s", self.name, " ".join(command))
        process = self._process = await self._spawn(command, plan.environment, home, self.log, note_line)
        await asyncio.to_thread(surroundings.registry.note_engine, self.name, process.pid)
        return key, process

    async def _close(self, grace_seconds: float) -> None:
        await super()._close(grace_seconds)
        if self._process is not None:
            await self._process.stop(grace_seconds)
            self._process = None
            await asyncio.to_thread(self._surroundings.registry.forget_engine, self.name)
        self._port = None
