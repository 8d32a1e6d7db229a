"""A supervisor whose engines and remotes prove themselves before they take calls."""

from __future__ import annotations

from collections.abc import Sequence

from llamafile_mgr.embedding.readiness import Baselines, make_checks
from llamafile_mgr.embedding.remote_readiness import RemoteChecks
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.supervisor import Supervisor, SupervisorOptions

__all__ = ["make_supervisor"]


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
