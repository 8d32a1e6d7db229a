"""What ``/ready`` tells of the models. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafile_mgr.supervisor.snapshots import PoolSnapshot

__all__ = ["render_ready"]


def render_ready(pools: Sequence[PoolSnapshot]) -> tuple[bool, dict[str, Any]]:
    """Return whether every wanted model can be asked, and each model's state with its cause.

    A model that rests is no obstacle: its next call starts it.
    """
    ready = all(pool.ready or pool.resting for pool in pools)
    models = [
        {
            "model": pool.model,
            "role": pool.role,
            "ready": pool.ready,
            "resting": pool.resting,
            "engines": [
                {
                    "name": engine.name,
                    "state": engine.state.value,
                    "seconds": round(engine.age_seconds, 3),
                    "restarts": engine.restarts,
                    "cause": engine.cause,
                }
                for engine in pool.engines
            ],
        }
        for pool in pools
    ]
    return ready, {"status": "ready" if ready else "not ready", "models": models}
