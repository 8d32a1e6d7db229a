"""What ``tune`` works on: one model's default plan, what its variants must keep to, and where results go."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import Config
from llamafile_mgr.errors import PlanError
from llamafile_mgr.launching.local_plans import find_specs, make_toolbox
from llamafile_mgr.launching.tuning_records import save_tuned
from llamafile_mgr.launching.wanted import Wanted, WantedModels
from llamafile_mgr.llamafile import FileFacts
from llamafile_mgr.machine import Machine
from llamafile_mgr.machine.detection import detect_machine
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.memory import Load, MemoryExtras, Offload, predict_memory
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.planner.remotes import without_remotes
from llamafile_mgr.planner.tuning import TunedSettings, TuneLimits, Variant


@dataclass(frozen=True, slots=True)
class Tunable:
    """What ``tune`` works on: the default plan of one model alone, and what variants must keep to."""

    plan: Plan
    limits: TuneLimits
    machine: Machine
    digest: str


def find_tunable(name: str, config: Config, paths: Paths) -> Tunable:
    """Return the default plan of one model that has this machine to itself, earlier results left aside.

    Raises:
        NotFoundError: it is neither in the store nor a file.
        InvalidFileError: the file is no llamafile or GGUF, or a broken one.
        PlanError: it cannot run here.
    """
    (spec,) = find_specs(WantedModels((Wanted(name),)), paths, config.models)
    if spec.role is Role.RERANK:
        raise PlanError(f"{spec.name} reranks: only embedding and generation are measured")
    machine = detect_machine()
    toolbox = make_toolbox(paths, config.engines)
    (plan,) = plan_models((spec,), machine, toolbox, os.environ, config.models)
    plan = without_remotes(plan)
    if spec.digest is None:
        raise PlanError(f"{spec.name} holds no model")
    return Tunable(plan, _limits_for(plan, spec, machine), machine, spec.digest)


def keep_tuned(tunable: Tunable, best: TunedSettings, paths: Paths) -> Path:
    """Keep a result for later plans and return its file. Raises StoreError."""
    now = datetime.now(UTC)
    return save_tuned(paths, tunable.machine, tunable.digest, tunable.plan.name, best, now)


def _limits_for(plan: Plan, spec: ModelSpec, machine: Machine) -> TuneLimits:
    """Return what variants of this plan must keep to on this machine."""
    whole_text = plan.role is Role.EMBED and spec.gguf is not None and spec.gguf.causal is False
    usable = machine.memory.usable

    def fits(variant: Variant) -> bool:
        # The best one so far is alive beside it: never more than twice the candidate's own and the weights.
        return usable is None or 2 * _estimate(plan, spec.facts, variant) <= usable

    return TuneLimits(
        family=plan.family,
        role=plan.role,
        cores=machine.cpu.usable_cores,
        least_batch=plan.settings.context if whole_text else None,
        has_gpu=plan.settings.gpu not in (None, "disable"),
        fits=fits,
    )


def _estimate(plan: Plan, facts: FileFacts, variant: Variant) -> int:
    cache = (plan.settings.prompt_cache_mib or 0) << 20
    flash = variant.flash_attention is not False
    types = (plan.features.cache_type_k or "f16", plan.features.cache_type_v or "f16")
    extras = MemoryExtras(types, plan.memory.beside if plan.memory is not None else 0)
    load = Load(
        plan.role,
        plan.family,
        plan.settings.context,
        variant.slots,
        variant.batch,
        cache,
        flash,
        extras=extras,
    )
    offload = None if variant.cpu_only or plan.device == "cpu" else Offload(1, 1)
    return predict_memory(facts, load, replicas=variant.replicas, offload=offload).joint
