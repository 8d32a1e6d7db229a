"""All pools of one ``serve``: started together, watched, and stopped so that no engine survives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llamafile_mgr.catalog import Role
from llamafile_mgr.errors import PlanError
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.engine import Engine, EngineSurroundings, ReadinessCheck
from llamafile_mgr.supervisor.pool import Pool
from llamafile_mgr.supervisor.restart import RestartPolicy

__all__ = ["Supervisor", "SupervisorOptions"]

_LOG = logging.getLogger("llamafile_mgr.supervisor")


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """Seconds: how long a loading engine may be silent, and how long a stopping one may take."""

    stall_seconds: float = 120.0
    stop_grace_seconds: float = 4.0
    policy: RestartPolicy = field(default_factory=RestartPolicy)


class Supervisor:
    """Owns the engines' tasks. ``checks`` makes the readiness check of a plan."""

    def __init__(
        self,
        plans: Sequence[Plan],
        checks: Callable[[Plan], ReadinessCheck],
        paths: Paths,
        options: SupervisorOptions,
    ) -> None:
        if len({plan.name for plan in plans}) != len(plans):
            raise PlanError("the same model was asked for twice")
        self._options = options
        self._paths = paths
        self._tasks: list[asyncio.Task[None]] = []
        self.pools = tuple(self._make_pool(plan, checks(plan)) for plan in plans)

    def _make_pool(self, plan: Plan, check: ReadinessCheck) -> Pool:
        pools: list[Pool] = []
        surroundings = EngineSurroundings(
            logs=self._paths.logs,
            home=self._paths.engine_home,
            runtime=self._paths.runtime,
            stall_seconds=self._options.stall_seconds,
            policy=self._options.policy,
            changed=lambda: pools[0].note_change(),
        )
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in plan.name)
        pools.append(Pool(plan, [Engine(name, plan, check, surroundings)]))
        return pools[0]

    def pool(self, role: Role) -> Pool | None:
        """Return the pool that serves ``role``, None when there is none."""
        return next((pool for pool in self.pools if pool.plan.role is role), None)

    def start(self) -> None:
        """Start every engine; their readiness shows in the pools."""
        for pool in self.pools:
            for engine in pool.engines:
                task = asyncio.create_task(
                    engine.run(self._options.stop_grace_seconds), name=f"engine {engine.name}"
                )
                task.add_done_callback(_report_defect)
                self._tasks.append(task)

    async def stop(self) -> None:
        """End every engine and wait until none is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


def _report_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _LOG.error("%s ended by a defect", task.get_name(), exc_info=task.exception())
