"""All pools of one ``serve``: started together, watched, and stopped so that no engine survives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from llamafile_mgr.addresses import RemoteConfig
from llamafile_mgr.catalog import Role
from llamafile_mgr.changes import Changes
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.engines.remote_client import PeerFacts
from llamafile_mgr.errors import NotFoundError, PlanError
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.engine import Engine
from llamafile_mgr.supervisor.engine_start import EngineChecks
from llamafile_mgr.supervisor.eviction import EvictionCandidate
from llamafile_mgr.supervisor.lifecycle import RestartPolicy
from llamafile_mgr.supervisor.liveness import LivenessPolicy
from llamafile_mgr.supervisor.memory_admission import MemoryAdmission
from llamafile_mgr.supervisor.meters import Kind, SpeedPolicy
from llamafile_mgr.supervisor.pool import Pool, PoolOptions
from llamafile_mgr.supervisor.registry import Registry, reap_survivors
from llamafile_mgr.supervisor.remote_backend import RemoteBackend
from llamafile_mgr.supervisor.snapshots import EngineSurroundings, PoolSnapshot
from llamafile_mgr.tasks import start_task

_LOG = logging.getLogger("llamafile_mgr.supervisor")


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """Seconds: how long a loading engine may be silent, and how long a stopping one may take.

    ``memory_limit_bytes``: main memory that all engines together may take, None for what there is.
    ``pools``: by model name, for those that differ from the default of their role.
    """

    stall_seconds: float = 120.0
    stop_grace_seconds: float = 4.0
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    liveness: LivenessPolicy = field(default_factory=LivenessPolicy)
    memory_limit_bytes: int | None = None
    speed: SpeedPolicy = field(default_factory=SpeedPolicy)
    pools: Mapping[str, PoolOptions] = field(default_factory=dict)

    def of_pool(self, plan: Plan) -> PoolOptions:
        """Return the options of the pool that runs this plan."""
        return self.pools.get(plan.name, PoolOptions(pinned=plan.role is Role.EMBED))


class Supervisor:
    """Owns the pools' tasks. ``checks`` makes the checks of a plan's engines, ``remote_checks`` those of its
    remotes, of which it is given what they tell. ``changes``: of all pools and their engines."""

    def __init__(
        self,
        plans: Sequence[Plan],
        checks: Callable[[Plan], EngineChecks],
        paths: Paths,
        options: SupervisorOptions,
        remote_checks: Callable[[Plan, PeerFacts | None], EngineChecks],
    ) -> None:
        if len({plan.name for plan in plans}) != len(plans):
            raise PlanError("the same model was asked for twice")
        self._checks = checks
        self._remote_checks = remote_checks
        self._paths = paths
        self._options = options
        self._registry = Registry(paths.runtime)
        self._tasks: list[asyncio.Task[None]] = []
        self.changes = Changes()
        self._budget = MemoryAdmission(self.changes, options.memory_limit_bytes)
        self.pools = tuple(self._make_pool(plan) for plan in plans)

    def _make_pool(self, plan: Plan) -> Pool:
        best: dict[LaunchSettings, dict[Kind, float]] = {}
        surroundings = EngineSurroundings(
            logs=self._paths.logs,
            home=self._paths.engine_home,
            registry=self._registry,
            stall_seconds=self._options.stall_seconds,
            grace_seconds=self._options.stop_grace_seconds,
            restart=self._options.restart,
            liveness=self._options.liveness,
            changed=lambda: pool.changes.announce(),
            speed=self._options.speed,
            best_rates=lambda settings: best.setdefault(settings, {}),
        )

        def make_engine(plan: Plan, number: int) -> Engine:
            safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in plan.name)
            name = safe if number == 0 else f"{safe}-{number + 1}"
            return Engine(name, plan, self._checks(plan), surroundings)

        def make_remote(plan: Plan, remote: RemoteConfig) -> RemoteBackend:
            checks = partial(self._remote_checks, plan)
            return RemoteBackend(remote.name, remote, plan, checks, surroundings)

        pool = Pool(
            plan,
            self._options.of_pool(plan),
            make_engine,
            make_remote,
            self._make_room,
            self.changes.announce,
        )
        return pool

    def apply(self, options: SupervisorOptions) -> None:
        """Take the options of the pools and the limit of all engines' memory; the others are a start's."""
        self._budget.limit_bytes = options.memory_limit_bytes
        for pool in self.pools:
            pool.apply(options.of_pool(pool.plan))

    def find(self, model: str) -> Pool:
        """Return the pool of this model.

        Raises:
            NotFoundError: it is not served here.
        """
        for pool in self.pools:
            if pool.plan.name == model:
                return pool
        names = ", ".join(pool.plan.name for pool in self.pools)
        raise NotFoundError(f"{model} is not being served", hint=f"served: {names}")

    def snapshots(self) -> list[PoolSnapshot]:
        """Return what can be told of every pool now."""
        return [pool.snapshot() for pool in self.pools]

    @property
    def alive(self) -> bool:
        """Return whether every pool's task still does its work; one that ended early is a defect."""
        return not any(task.done() for task in self._tasks)

    async def start(self) -> None:
        """End what an earlier ``serve`` left running, then start the engines of every pool that has room.

        Pinned ones go first. What does not fit beside them waits for its first call.
        """
        survivors = await asyncio.to_thread(reap_survivors, self._paths.runtime)
        if survivors:
            _LOG.warning("ended engines that an earlier serve left behind: %s", survivors)
        for pool in self.pools:
            self._tasks.append(start_task(pool.run(), f"pool {pool.plan.name}"))
        await asyncio.gather(*(pool.load() for pool in self.pools if pool.options.pinned))
        for pool in self.pools:
            if pool.options.pinned:
                continue
            if isinstance(await self._budget.decide(pool, self.pools), EvictionCandidate):
                _LOG.warning("%s is started at its first call: others take the memory now", pool.plan.name)
                pool.rest()
            else:
                await pool.load()

    async def stop(self, *, drain: bool = True) -> None:
        """End every engine and wait until none is left; ``drain``: let the calls in progress be answered."""
        if not drain:
            for pool in self.pools:
                pool.hurry()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.to_thread(self._registry.remove)

    async def _make_room(self, incoming: Pool) -> None:
        await self._budget.make_room(incoming, self.pools)
