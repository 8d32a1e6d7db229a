"""All pools of one ``serve``: started together, watched, and stopped so that no engine survives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llamafile_mgr.catalog import Role
from llamafile_mgr.errors import NotFoundError, PlanError
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.engine import Engine, EngineSurroundings
from llamafile_mgr.supervisor.liveness import LivenessPolicy
from llamafile_mgr.supervisor.memory import available_bytes
from llamafile_mgr.supervisor.pool import Pool, PoolOptions
from llamafile_mgr.supervisor.registry import Registry, reap_survivors
from llamafile_mgr.supervisor.restart import RestartPolicy
from llamafile_mgr.supervisor.starting import EngineChecks

__all__ = ["Supervisor", "SupervisorOptions"]

_LOG = logging.getLogger("llamafile_mgr.supervisor")


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """Seconds: how long a loading engine may be silent, and how long a stopping one may take.

    ``pools``: by model name, for those that differ from the default of their role.
    """

    stall_seconds: float = 120.0
    stop_grace_seconds: float = 4.0
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    liveness: LivenessPolicy = field(default_factory=LivenessPolicy)
    pools: Mapping[str, PoolOptions] = field(default_factory=dict)


class Supervisor:
    """Owns the pools' tasks. ``checks`` makes the checks of a plan's engines."""

    def __init__(
        self,
        plans: Sequence[Plan],
        checks: Callable[[Plan], EngineChecks],
        paths: Paths,
        options: SupervisorOptions,
    ) -> None:
        if len({plan.name for plan in plans}) != len(plans):
            raise PlanError("the same model was asked for twice")
        self._checks = checks
        self._paths = paths
        self._options = options
        self._registry = Registry(paths.runtime)
        self._tasks: list[asyncio.Task[None]] = []
        self.pools = tuple(self._make_pool(plan) for plan in plans)

    def _make_pool(self, plan: Plan) -> Pool:
        default = PoolOptions(pinned=plan.role is Role.EMBED)
        surroundings = EngineSurroundings(
            logs=self._paths.logs,
            home=self._paths.engine_home,
            registry=self._registry,
            stall_seconds=self._options.stall_seconds,
            grace_seconds=self._options.stop_grace_seconds,
            restart=self._options.restart,
            liveness=self._options.liveness,
            changed=lambda: pool.note_change(),
        )

        def make_engine(plan: Plan, number: int) -> Engine:
            safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in plan.name)
            name = safe if number == 0 else f"{safe}-{number + 1}"
            return Engine(name, plan, self._checks(plan), surroundings)

        pool = Pool(plan, self._options.pools.get(plan.name, default), make_engine, self._make_room)
        return pool

    def pool(self, role: Role) -> Pool | None:
        """Return the pool that serves ``role``, None when there is none."""
        return next((pool for pool in self.pools if pool.plan.role is role), None)

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

    @property
    def alive(self) -> bool:
        """Return whether every pool's task still does its work; one that ended early is a defect."""
        return not any(task.done() for task in self._tasks)

    async def start(self) -> None:
        """End what an earlier ``serve`` left running, then start every pool's engines."""
        survivors = await asyncio.to_thread(reap_survivors, self._paths.runtime)
        if survivors:
            _LOG.warning("ended engines that an earlier serve left behind: %s", survivors)
        for pool in self.pools:
            self._tasks.append(asyncio.create_task(pool.run(), name=f"pool {pool.plan.name}"))
        await asyncio.gather(*(pool.load() for pool in self.pools))

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

    async def _make_room(self, newcomer: Pool) -> None:
        """Unload the least recently used idle models until the newcomer's predicted memory is there."""
        memory = newcomer.plan.memory
        if memory is None:
            return
        while await asyncio.to_thread(available_bytes) < memory.host:
            idle = [
                pool
                for pool in self.pools
                if pool is not newcomer and pool.engines and not pool.options.pinned and not pool.busy
            ]
            if not idle:
                return
            victim = max(idle, key=lambda pool: pool.idle_seconds)
            _LOG.info("%s is unloaded to make room for %s", victim.plan.name, newcomer.plan.name)
            await victim.unload()
