"""An engine's life when something of ours fails under it: it is said, and the engine comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from llamafile_mgr.changes import Changes
from llamafile_mgr.errors import EngineError, EngineLostError
from llamafile_mgr.supervisor.engine import Engine
from llamafile_mgr.supervisor.engine_log import EngineLog
from llamafile_mgr.supervisor.lifecycle import RestartPolicy
from llamafile_mgr.supervisor.process import EngineProcess, Spawner, spawn_engine
from llamafile_mgr.supervisor.snapshots import EngineSurroundings
from llamafile_mgr.supervisor.states import EngineState
from tests.support.lives import Checks, fake_plan, surroundings

SLOW = RestartPolicy(first_delay_seconds=30.0, longest_delay_seconds=30.0)


class Fragile:
    """Starts processes, or raises ``wrong``."""

    def __init__(self, wrong: Exception | None = None) -> None:
        self.wrong = wrong
        self.tries = 0

    async def __call__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        log: EngineLog,
        on_line: Callable[[str], None],
    ) -> EngineProcess:
        self.tries += 1
        if self.wrong is not None:
            raise self.wrong
        return await spawn_engine(argv, environment, directory, log, on_line)


class Scene:
    """A living engine, and what stands around it."""

    def __init__(self, engine: Engine, changes: Changes, around: EngineSurroundings, checks: Checks) -> None:
        self.engine = engine
        self.around = around
        self.checks = checks
        self._changes = changes

    async def until(self, predicate: Callable[[], object]) -> None:
        assert await self._changes.wait_for(predicate, 20.0)

    async def until_state(self, *states: EngineState) -> None:
        await self.until(lambda: self.engine.state in states)

    async def kill(self, number: signal.Signals) -> object:
        """End its process, wait until that is known, and return its client."""
        client, pid = self.engine.client, self.engine.pid
        assert pid is not None
        os.kill(pid, number)
        await self.until(lambda: self.engine.state is not EngineState.READY)
        return client


@asynccontextmanager
async def life(
    home: Path, spawn: Spawner = spawn_engine, restart: RestartPolicy | None = None, *switches: str
) -> AsyncIterator[Scene]:
    """Run an engine until the end of the block."""
    changes, checks = Changes(), Checks()
    around = surroundings(home, changes)
    if restart is not None:
        around = replace(around, restart=restart)
    engine = Engine("m", fake_plan(*switches), checks, around, spawn)
    task = asyncio.create_task(engine.run())
    try:
        yield Scene(engine, changes, around, checks)
    finally:
        engine.request_stop(1.0)
        await asyncio.wait_for(task, 10)
        assert engine.state is EngineState.STOPPED
        assert engine.client is None
        assert engine.pid is None


@contextmanager
def in_the_way(directory: Path) -> Iterator[None]:
    """Put a file where a directory was."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.write_text("a file")
    yield
    directory.unlink()


async def test_a_runtime_directory_that_is_gone_is_a_cause_and_no_end(tmp_path: Path) -> None:
    async with life(tmp_path) as scene:
        engine = scene.engine
        await scene.until_state(EngineState.READY)
        with in_the_way(scene.around.registry.directory):
            await scene.kill(signal.SIGKILL)
            await scene.until(lambda: engine.cause is not None and not engine.cause.external)
            cause = engine.snapshot().cause
            assert cause is not None
            assert str(scene.around.registry.directory) in cause
            await scene.until_state(EngineState.FAILED)
            assert engine.retry_seconds is not None
        await scene.until_state(EngineState.READY)


@pytest.mark.parametrize("where", ["logs", "home"])
async def test_other_directories_that_are_gone(tmp_path: Path, where: str) -> None:
    async with life(tmp_path) as scene:
        engine = scene.engine
        await scene.until_state(EngineState.READY)
        with in_the_way(getattr(scene.around, where)):
            await scene.kill(signal.SIGKILL)
            await scene.until_state(EngineState.BACKING_OFF)
            if where == "logs":
                await scene.until_state(EngineState.READY)  # the log is all that this costs
        await scene.until_state(EngineState.READY)
        assert engine.snapshot().restarts >= 1


async def test_a_defect_of_ours_is_logged_told_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spawn = Fragile(RuntimeError("no such thing"))
    async with life(tmp_path, spawn) as scene:
        engine = scene.engine
        await scene.until_state(EngineState.BACKING_OFF)
        snapshot = engine.snapshot()
        assert snapshot.cause == "a defect of ours: RuntimeError: no such thing"
        assert [each.exc_info[0] for each in caplog.records if each.exc_info][:1] == [RuntimeError]
        await scene.until_state(EngineState.FAILED)
        assert engine.retry_seconds is not None
        spawn.wrong = None
        await scene.until_state(EngineState.READY)
        assert spawn.tries >= 4


async def test_a_defect_in_a_check_leaves_no_process_behind(tmp_path: Path) -> None:
    async with life(tmp_path) as scene:
        await scene.until_state(EngineState.READY)
        pid = scene.engine.pid
        assert pid is not None
        scene.checks.wrong = ZeroDivisionError("of ours")
        scene.engine.suspect()
        await scene.until_state(EngineState.BACKING_OFF)
        assert not psutil.pid_exists(pid)
        scene.checks.wrong = None
        await scene.until_state(EngineState.READY)


async def test_a_process_whose_note_cannot_be_written_is_ended(tmp_path: Path) -> None:
    """The key was written, the process runs, and then the disk is full."""
    pids: list[int] = []

    async def spawn(
        argv: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        log: EngineLog,
        on_line: Callable[[str], None],
    ) -> EngineProcess:
        process = await spawn_engine(argv, environment, directory, log, on_line)
        pids.append(process.pid)
        if len(pids) == 1:
            note = tmp_path / "blocked"
            note.mkdir()
            (scene.around.registry.directory / "engines.json").unlink(missing_ok=True)
            note.rename(scene.around.registry.directory / "engines.json")
        else:
            shutil.rmtree(scene.around.registry.directory / "engines.json", ignore_errors=True)
        return process

    async with life(tmp_path, spawn) as scene:
        await scene.until_state(EngineState.BACKING_OFF)
        assert not psutil.pid_exists(pids[0])
        await scene.until_state(EngineState.READY)
        assert len(pids) >= 2


@pytest.mark.parametrize(
    ("number", "external"), [(signal.SIGKILL, True), (signal.SIGTERM, True), (signal.SIGSEGV, False)]
)
async def test_a_death_is_told_to_the_calls_that_it_cost(
    tmp_path: Path, number: signal.Signals, external: bool
) -> None:
    async with life(tmp_path, spawn_engine, SLOW) as scene:
        engine = scene.engine
        await scene.until_state(EngineState.READY)
        assert not await engine.was_ended(Changes())
        client = await scene.kill(number)
        assert await engine.was_ended(client) is external
        assert engine.cause is not None
        assert engine.cause.external is external


async def test_one_that_is_killed_under_a_check_was_killed(tmp_path: Path) -> None:
    """The check sees its connection end before the process is seen to be gone."""
    async with life(tmp_path, spawn_engine, SLOW) as scene:
        await scene.until_state(EngineState.READY)
        client, pid = scene.engine.client, scene.engine.pid
        assert pid is not None
        scene.checks.wrong = EngineLostError("it broke off its answer")
        os.kill(pid, signal.SIGKILL)
        scene.engine.suspect()
        await scene.until_state(EngineState.BACKING_OFF)
        assert await scene.engine.was_ended(client)


async def test_one_that_we_stopped_was_ended_by_somebody(tmp_path: Path) -> None:
    async with life(tmp_path) as scene:
        await scene.until_state(EngineState.READY)
        client = scene.engine.client
        scene.engine.request_stop(1.0)
        assert await scene.engine.was_ended(client)


async def test_an_excused_death_brings_it_back_at_once(tmp_path: Path) -> None:
    async with life(tmp_path, spawn_engine, SLOW) as scene:
        engine = scene.engine
        await scene.until_state(EngineState.READY)
        for _ in range(3):
            client = await scene.kill(signal.SIGSEGV)
            await scene.until_state(EngineState.BACKING_OFF)
            assert (engine.retry_seconds or 0.0) > 10
            engine.excuse_death(client)
            engine.excuse_death(client)
            await scene.until_state(EngineState.READY)
        engine.excuse_death(client)
        engine.excuse_death(Changes())
        assert engine.state is EngineState.READY


async def test_one_that_has_failed_for_requests_comes_back(tmp_path: Path) -> None:
    once = RestartPolicy(budget=1, cooldown_seconds=0.01)
    async with life(tmp_path, spawn_engine, once) as scene:
        engine = scene.engine
        await scene.until_state(EngineState.READY)
        await scene.kill(signal.SIGSEGV)
        await scene.until_state(EngineState.READY)  # the last try
        client = await scene.kill(signal.SIGSEGV)
        await scene.until_state(EngineState.FAILED)
        assert engine.retry_seconds is None
        engine.excuse_death(client)
        await scene.until_state(EngineState.READY)


async def test_a_stop_ends_every_wait(tmp_path: Path) -> None:
    async with life(tmp_path, Fragile(EngineError("never")), SLOW) as scene:
        await scene.until_state(EngineState.BACKING_OFF)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 5
    assert [each.state for each in scene.engine.snapshot().transitions][-1] is EngineState.STOPPED


async def test_counting_tokens_does_not_clear_an_engine_that_dies_of_every_text(tmp_path: Path) -> None:
    policy = RestartPolicy(first_delay_seconds=0.001, longest_delay_seconds=0.001, budget=3)
    async with life(tmp_path, spawn_engine, policy) as scene:
        engine = scene.engine
        for _ in range(3):
            await scene.until_state(EngineState.READY)
            engine.end(engine.begin(0), answered=True)
            await scene.kill(signal.SIGSEGV)
        await scene.until(lambda: (engine.retry_seconds or 0.0) > 1.0)
        assert engine.snapshot().served == 3
