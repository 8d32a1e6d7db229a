"""A supervisor whose engines and remotes prove themselves before they take calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from llamafile_mgr.embedding.readiness import Baselines, make_checks
from llamafile_mgr.embedding.remote_readiness import RemoteChecks
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.calls import Caller, Deadline
from llamafile_mgr.supervisor.pool import Pool
from llamafile_mgr.supervisor.supervisor import Supervisor, SupervisorOptions


def make_supervisor(
    plans: Sequence[Plan], paths: Paths, options: SupervisorOptions | None = None
) -> Supervisor:
    """Return a supervisor for ``plans``; nothing is started yet."""
    baselines = Baselines(paths.state / "baselines")
    return Supervisor(
        plans,
        lambda plan: make_checks(plan, baselines),
        paths,
        options or SupervisorOptions(),
        lambda plan, facts: RemoteChecks(plan, baselines, facts),
    )


@asynccontextmanager
async def running_pools(
    plans: Sequence[Plan], paths: Paths, seconds: float, options: SupervisorOptions | None = None
) -> AsyncIterator[Sequence[Pool]]:
    """Run the engines of ``plans`` while inside, at once and to the end. ``seconds``: for each to be ready.

    Raises:
        NotReadyError: one of them did not become ready.
    """
    supervisor = make_supervisor(plans, paths, options)
    try:
        await supervisor.start()
        for pool in supervisor.pools:
            await pool.calls.until_ready(Caller("", Deadline.after(seconds, seconds)))
        yield supervisor.pools
    finally:
        await supervisor.stop(drain=False)
