"""What the proxy tells of its models: ``/ready``, ``/v1/models`` and ``/props``. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.pool import Pool
from llamafile_mgr.supervisor.snapshots import PoolSnapshot

__all__ = ["render_models", "render_props", "render_ready"]


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
                    "slots": pool.plan.settings.slots,
                    "vector_space": spaces.get(pool.plan.name),
                    "remotes": len(pool.plan.remotes),
                },
            }
            for pool in pools
        ],
    }


def render_props(plan: Plan) -> dict[str, Any]:
    """Return what clients of llama.cpp's server read from ``/props``; paths of this machine stay here."""
    return {
        "default_generation_settings": {"n_ctx": plan.settings.context, "params": {}},
        "total_slots": plan.settings.slots,
        "model_alias": plan.name,
        "model_path": plan.name,
        "chat_template": "",
        "modalities": {"vision": False, "audio": False},
        "build_info": f"llamafile-mgr ({plan.family.value})",
    }
