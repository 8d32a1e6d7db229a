"""All pools together, on engines that are quick to start: who is loaded, who rests, and who is heard."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from llamafile_mgr.errors import BusyError, NotFoundError, NotReadyError, PlanError
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.planner.memory import MemoryEstimate
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.calls import Caller, Deadline, Weight
from llamafile_mgr.supervisor.pool import Pool, PoolOptions
from llamafile_mgr.supervisor.queue import QueueLimits
from llamafile_mgr.supervisor.supervisor import Supervisor, SupervisorOptions
from tests.support.lives import QUICK, Checks, fake_plan

MIB = 1 << 20


def plan(name: str, mebibytes: int = 100) -> Plan:
    memory = MemoryEstimate(base=mebibytes * MIB, weights=0, kv_cache=0, compute=0, output=0)
    return replace(fake_plan(), name=name, memory=memory)


def options(pools: dict[str, PoolOptions], limit: int | None = None) -> SupervisorOptions:
    return SupervisorOptions(
        stop_grace_seconds=1.0,
        restart=QUICK,
        memory_limit_bytes=None if limit is None else limit * MIB,
        pools=pools,
    )


@asynccontextmanager
async def supervised(home: Path, plans: list[Plan], chosen: SupervisorOptions) -> AsyncIterator[Supervisor]:
    """Run a supervisor until the end of the block; then no engine may be left."""
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(home)})
    supervisor = Supervisor(plans, lambda _: Checks(), paths, chosen, lambda *_: Checks())
    await supervisor.start()
    pids: set[int] = set()
    try:
        yield supervisor
        pids = {engine.pid for pool in supervisor.pools for engine in pool.engines if engine.pid is not None}
    finally:
        await supervisor.stop()
        assert not any(psutil.pid_exists(pid) for pid in pids)


async def until(supervisor: Supervisor, true: Callable[[], object]) -> None:
    assert await supervisor.changes.wait_for(true, 20.0)


async def test_what_does_not_fit_beside_the_pinned_rests_until_it_is_called(tmp_path: Path) -> None:
    plans = [plan("one"), plan("two"), plan("kept")]
    pools = {each.name: PoolOptions(pinned=each.name == "kept", drain_seconds=1.0) for each in plans}
    async with supervised(tmp_path, plans, options(pools, limit=250)) as supervisor:
        one, two, kept = supervisor.pools
        await until(supervisor, lambda: one.ready and kept.ready)
        assert two.resting
        assert not two.engines
        await two.load()
        await until(supervisor, lambda: two.ready)
        assert one.resting
        assert not one.engines
        assert kept.ready


async def test_other_options_count_at_once(tmp_path: Path) -> None:
    plans = [plan("one"), plan("two")]
    pools = {each.name: PoolOptions(pinned=False, drain_seconds=1.0) for each in plans}
    caller = Caller("somebody", Deadline.after(10.0, 10.0))
    async with supervised(tmp_path, plans, options(pools, limit=150)) as supervisor:
        one, two = supervisor.pools
        await until(supervisor, lambda: one.ready and two.resting)
        limited = PoolOptions(pinned=False, drain_seconds=1.0, limits=QueueLimits(2, 1000))
        supervisor.apply(options({"one": limited, "two": pools["two"]}, limit=250))
        await two.load()
        await until(supervisor, lambda: two.ready)
        assert one.ready  # with the limit of before it would have had to go
        with one.calls.admit(caller, Weight(1, 1)), pytest.raises(BusyError):
            one.calls.admit(caller, Weight(5, 5))
        supervisor.apply(options(pools, limit=250))
        with one.calls.admit(caller, Weight(1, 1)), one.calls.admit(caller, Weight(5, 5)):
            pass


async def test_what_never_fits_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    plans = [plan("kept"), plan("large", 200)]
    pools = {"kept": PoolOptions(pinned=True), "large": PoolOptions(pinned=False)}
    async with supervised(tmp_path, plans[:1], options(pools, limit=250)) as supervisor:
        kept = supervisor.find("kept")
        await until(supervisor, lambda: kept.ready)
        with pytest.raises(NotFoundError):
            supervisor.find("large")
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    both = Supervisor(plans, lambda _: Checks(), paths, options(pools, limit=250), lambda *_: Checks())
    with pytest.raises(NotReadyError, match="does not fit"):
        await both.start()
    await both.stop()
    with pytest.raises(PlanError, match="twice"):
        Supervisor([plans[0], plans[0]], lambda _: Checks(), paths, options(pools), lambda *_: Checks())


async def test_a_change_of_any_engine_is_heard(tmp_path: Path) -> None:
    pools = {name: PoolOptions(drain_seconds=1.0) for name in ("one", "two")}
    async with supervised(tmp_path, [plan("one"), plan("two")], options(pools)) as supervisor:
        for pool in supervisor.pools:
            await kill_and_hear(supervisor, pool)


async def kill_and_hear(supervisor: Supervisor, pool: Pool) -> None:
    await until(supervisor, lambda: pool.ready)
    (engine,) = pool.engines
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(supervisor, lambda: not pool.ready)
    await until(supervisor, lambda: pool.ready)
    assert engine.pid != pid


async def test_a_defect_in_looking_after_a_pool_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = PoolOptions(idle_unload_seconds=cast("Any", "soon"), drain_seconds=1.0)
    async with supervised(tmp_path, [plan("one")], options({"one": wrong})) as supervisor:
        (pool,) = supervisor.pools
        await until(supervisor, lambda: pool.ready)
        for _ in range(100):
            if any(each.exc_info for each in caplog.records):
                break
            await asyncio.sleep(0.05)
        assert "one: a defect of ours" in caplog.text
        assert supervisor.alive
        await unload_and_load(supervisor, pool)


async def unload_and_load(supervisor: Supervisor, pool: Pool) -> None:
    await pool.unload()
    assert not pool.engines
    await pool.load()
    await until(supervisor, lambda: pool.ready)


async def test_a_runtime_directory_that_cannot_be_used_is_a_cause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    async with supervised(tmp_path, [plan("one")], options({})) as supervisor:
        (pool,) = supervisor.pools
        await until(supervisor, lambda: pool.ready)
        (engine,) = pool.engines
        pid = engine.pid
        assert pid is not None
        aside = paths.runtime.rename(paths.runtime.with_name("aside"))
        paths.runtime.write_text("a file")
        with caplog.at_level(logging.WARNING):
            os.kill(pid, signal.SIGKILL)
            await until(supervisor, lambda: str(paths.runtime) in (pool.snapshot().engines[0].cause or ""))
        paths.runtime.unlink()
        aside.rename(paths.runtime)
        await until(supervisor, lambda: pool.ready)
        assert str(paths.runtime) in caplog.text
