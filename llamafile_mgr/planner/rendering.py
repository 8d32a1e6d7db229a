"""Plans as plain values for JSON and as argv with placeholders. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.planner.remotes import describe_remote

#: What stands for what is known only when an engine starts.
PORT_PLACEHOLDER, KEY_PLACEHOLDER = "PORT", "KEY_FILE"
#: The settings of an engine that are shown.
_SETTINGS = (
    *("context", "slots", "batch", "threads", "pooling", "gpu", "gpu_layers"),
    *("flash_attention", "prompt_cache_mib", "asked"),
)
#: No port has this number, so that no other argument can be mistaken for it.
_NO_PORT = 999_999


def describe_command(plan: Plan) -> tuple[str, ...]:
    """Return the argv with ``PORT`` and ``KEY_FILE`` where those will stand."""
    command = plan.command(_NO_PORT, Path(KEY_PLACEHOLDER))
    return tuple(PORT_PLACEHOLDER.join(part.split(str(_NO_PORT))) for part in command)


def joint_memory(plans: Sequence[Plan], machine: Machine) -> dict[str, int | None]:
    """Return what all plans take together, and what the machine has, in bytes."""
    estimates = [plan.memory for plan in plans if plan.memory is not None]
    return {
        "needed": sum(estimate.joint for estimate in estimates),
        "needed_on_gpus": sum(estimate.joint_device for estimate in estimates),
        "usable_now": machine.memory.usable,
        "machine": machine.memory.ceiling,
    }


def plan_to_dict(plan: Plan) -> dict[str, object]:
    """Return everything that was decided and why."""
    memory = plan.memory
    return {
        "name": plan.name,
        "role": plan.role.value,
        "path": str(plan.path),
        "family": plan.family.value,
        "replicas": plan.replicas,
        "device": plan.device,
        "command": list(describe_command(plan)),
        "environment": dict(plan.environment),
        "settings": {name: getattr(plan.settings, name) for name in _SETTINGS},
        "dimensions": plan.dimensions,
        "max_tokens": plan.max_tokens,
        "append_eos": plan.append_eos,
        "tuned": plan.tuned,
        "memory": memory
        and {
            **dataclasses.asdict(memory),
            "per_replica": memory.host,
            "joint": memory.joint,
            "joint_device": memory.joint_device,
        },
        "reasons": [dataclasses.asdict(reason) for reason in plan.reasons],
        "warnings": list(plan.warnings),
        "remotes": [describe_remote(remote) for remote in plan.remotes],
    }
