"""What the proxy tells of itself: ``/ready`` and ``/v1/models``. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamafile_mgr.supervisor.pool import Pool, PoolSnapshot

__all__ = ["render_models", "render_ready"]


def render_ready(pools: Sequence[PoolSnapshot]) -> tuple[bool, dict[str, Any]]:
    """Return whether every wanted model can be asked, and each model's state with its cause."""
    ready = all(pool.ready for pool in pools)
    models = [
        {
            "model": pool.model,
            "role": pool.role,
            "ready": pool.ready,
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


def render_models(pools: Sequence[Pool], spaces: Mapping[str, str], created: int) -> dict[str, Any]:
    """Return OpenAI's model list with what an embedding client needs to know in ``meta``."""
    return {
        "object": "list",
        "data": [
            {
                "id": pool.plan.name,
                "object": "model",
                "created": created,
                "owned_by": "llamafile-mgr",
                "meta": {
                    "role": pool.plan.role.value,
                    "ready": pool.ready,
                    "engine_family": pool.plan.family.value,
                    "dimensions": pool.plan.dimensions,
                    "max_tokens": pool.plan.max_tokens,
                    "vector_space": spaces.get(pool.plan.name),
                },
            }
            for pool in pools
        ],
    }
