"""From models, a machine and a toolbox to plans that work together. Pure: no clock, no disk, no environment.

Every number comes with the rule that gave it. Embedding is planned first and keeps what it needs; generation
shrinks into what is left. Where even the smallest settings do not fit, the error does the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.engines.toolbox import Toolbox
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import GgufFacts
from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.environments import make_environment
from llamafile_mgr.planner.memory import MemoryEstimate, format_size, predict_memory
from llamafile_mgr.planner.memory_left import HostRoom
from llamafile_mgr.planner.model_specs import Subject
from llamafile_mgr.planner.placement import GpuRoom, Placement, find_rooms, place_model, take_room
from llamafile_mgr.planner.plans import Plan, Reason
from llamafile_mgr.planner.remotes import add_remotes, only_remotes
from llamafile_mgr.planner.selection import Selection, select_engine
from llamafile_mgr.planner.sizing import (
    CoreShare,
    Sizing,
    choose_sizing,
    one_engine,
    shrink_steps,
    text_limit,
)
from llamafile_mgr.planner.tuning import TunedSettings

__all__ = ["plan_models"]

_ORDER = {Role.EMBED: 0, Role.RERANK: 1, Role.GENERATE: 2}
#: Generation on a GPU gives up context and slots down to this before layers leave the GPU.
_WORTHWHILE_CONTEXT = 2048
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class _Situation:
    """What every model meets: the machine, what is installed, and what is still free of both memories."""

    machine: Machine
    toolbox: Toolbox
    environ: Mapping[str, str]
    share: CoreShare
    host: HostRoom
    gpus: tuple[GpuRoom, ...]
    more_to_come: bool
    limit: int | None

    def allows(self, fit: _Fit) -> bool:
        """Tell whether the user's limit has room for it."""
        return self.limit is None or _all_bytes(fit) <= self.limit


@dataclass(frozen=True, slots=True)
class _Fit:
    """A sizing with its place and its memory. ``warning``: it fits the machine, but not what is free now."""

    sizing: Sizing
    placement: Placement
    memory: MemoryEstimate
    warning: str | None = None


def plan_models(
    subjects: tuple[Subject, ...],
    machine: Machine,
    toolbox: Toolbox,
    environ: Mapping[str, str],
    wishes: Mapping[str, ModelConfig],
    tuned: Mapping[str, Sequence[TunedSettings]] | None = None,
    *,
    limit: int | None = None,
) -> tuple[Plan, ...]:
    """Return one plan per subject, in their order, for all of them running at once.

    ``wishes`` and ``tuned`` are keyed by the subjects' names; a wish wins over a measurement. Of the
    measurements, one per engine family, the one of the engine that is taken counts. ``limit``: bytes that
    all of them may take, wherever they lie.

    Raises:
        PlanError: one of them cannot run here, or not beside the others.
    """
    cores = max(1, machine.cpu.usable_cores // max(1, len(subjects)))
    share = CoreShare(machine.cpu, cores, len(subjects) - 1)
    host, gpus = HostRoom.of(machine), find_rooms(machine, environ)
    plans: dict[int, Plan] = {}
    order = sorted(range(len(subjects)), key=lambda at: _ORDER[subjects[at].role])
    for position, at in enumerate(order):
        subject = subjects[at]
        more = any(subjects[later].role is not Role.EMBED for later in order[position + 1 :])
        situation = _Situation(machine, toolbox, environ, share, host, gpus, more, limit)
        wish = wishes.get(subject.name, ModelConfig())
        if wish.replicas == 0:
            plans[at] = _plan_remotes(subject, situation, wish)
            continue
        plan, fit = _plan_model(subject, situation, wish, (tuned or {}).get(subject.name, ()))
        plans[at] = add_remotes(plan, wish.remote)
        host = host.take(subject.name, fit.memory.joint)
        gpus = take_room(gpus, fit.placement, _device_bytes(fit))
        limit = None if limit is None else limit - _all_bytes(fit)
    return tuple(plans[at] for at in range(len(subjects)))


def _plan_model(
    subject: Subject, situation: _Situation, wish: ModelConfig, measured: Sequence[TunedSettings]
) -> tuple[Plan, _Fit]:
    pooling, pooling_reason = _choose_pooling(subject)
    selection = select_engine(subject, situation.machine, situation.toolbox, pooling)
    weights = subject.facts.model
    if weights is None:
        raise PlanError(f"{subject.name} holds no model")
    gguf = weights.gguf
    if pooling_reason is None and subject.role is Role.EMBED:
        raise _no_pooling(subject)
    tuned = next((each for each in measured if each.family is selection.family), None)
    if tuned is not None and tuned.variant.cpu_only:
        situation = replace(situation, gpus=())
    sizing = choose_sizing(selection.family, subject.role, gguf, subject.model, situation.share, wish, tuned)
    fit = _fit(subject, selection, sizing, situation)
    reasons = [selection.reason, *_sizing_reasons(fit.sizing), _gpu_reason(fit.placement, tuned)]
    reasons += [pooling_reason] if pooling_reason is not None else []
    append_eos, eos_reason = _choose_eos(subject, selection.family, gguf)
    reasons += [eos_reason] if eos_reason is not None else []
    reasons.append(
        Reason("memory", format_size(fit.memory.joint + fit.memory.joint_device), fit.memory.describe())
    )
    warnings = [text for text in (selection.warning, fit.warning) if text is not None]
    plan = Plan(
        name=subject.name,
        role=subject.role,
        family=selection.family,
        program=selection.program,
        settings=_settings(subject, selection, fit, pooling),
        environment=make_environment(
            selection.family, situation.toolbox, situation.environ, fit.placement.environment
        ),
        reasons=tuple(reasons),
        path=subject.path,
        weights_digest=subject.digest,
        quantisation=gguf.quantisation,
        model=subject.model,
        dimensions=_dimensions(subject, gguf),
        max_tokens=_max_tokens(subject, gguf, fit.sizing),
        replicas=fit.sizing.replicas,
        memory=fit.memory,
        device=fit.placement.device,
        accelerated=fit.placement.accelerated,
        crowded=fit.warning is not None,
        append_eos=append_eos,
        tuned=tuned is not None and any(reason.why == tuned.describe() for reason in reasons),
        warnings=tuple(warnings),
    )
    return plan, fit


def _plan_remotes(subject: Subject, situation: _Situation, wish: ModelConfig) -> Plan:
    """Return the plan of a model that only remotes serve: nothing of it has to fit here."""
    elsewhere = replace(situation, host=HostRoom(None, None, None), gpus=())
    plan, _ = _plan_model(subject, elsewhere, replace(wish, replicas=1), ())
    return only_remotes(plan, wish.remote)


def _fit(subject: Subject, selection: Selection, sizing: Sizing, situation: _Situation) -> _Fit:
    """Return the best sizing that fits: wholly on a GPU, in free memory, or at least in the machine."""
    floor = min(sizing.context, _WORTHWHILE_CONTEXT)
    largest: _Fit | None = None
    for step in shrink_steps(sizing):
        smallest = _place(subject, selection, step, situation)
        if not situation.allows(smallest) or not situation.host.has_now(smallest.memory.joint):
            continue
        largest = largest or smallest
        if not situation.gpus or (smallest.placement.full and smallest.sizing.context >= floor):
            return smallest
    if largest is not None:
        return largest
    if not situation.allows(smallest) or not situation.host.has_ever(smallest.memory.joint):
        raise _too_large(subject, smallest, situation)
    needed = format_size(smallest.memory.joint)
    warning = f"it needs {needed} of main memory and {situation.host.describe_now()}: close other programs"
    return replace(smallest, warning=warning)


def _place(subject: Subject, selection: Selection, sizing: Sizing, situation: _Situation) -> _Fit:
    placement = place_model(
        subject.facts,
        sizing.load(on_gpu=True),
        situation.gpus,
        selection.gpu_modules,
        situation.environ,
        spare_largest=situation.more_to_come,
        host_room=situation.host.now,
    )
    if placement.offload is not None:
        sizing = one_engine(sizing, situation.share.cores, "a GPU is kept busy by one engine")
    memory = predict_memory(
        subject.facts,
        sizing.load(on_gpu=placement.offload is not None),
        replicas=sizing.replicas,
        offload=placement.offload,
    )
    return _Fit(sizing, placement, memory)


def _too_large(subject: Subject, fit: _Fit, situation: _Situation) -> PlanError:
    beside = f" beside {' and '.join(situation.host.taken)}" if situation.host.taken else ""
    where, needed, left = "this machine's memory", fit.memory.joint, situation.host.describe_ever()
    if situation.limit is not None and not situation.allows(fit):
        where, needed = "what is allowed", _all_bytes(fit)
        left = f"{format_size(max(0, situation.limit))} are allowed"
    return PlanError(
        f"{subject.name} does not fit into {where}{beside}",
        cause=(
            f"with its smallest settings {subject.name} needs {format_size(needed)}, and {left}"
            f"; that is {fit.memory.describe()}"
        ),
        hint="take a smaller file of the model or a smaller model: llamafile-mgr recommend",
    )


def _all_bytes(fit: _Fit) -> int:
    """Return what the model takes of all memories together."""
    return fit.memory.joint + fit.memory.joint_device


def _device_bytes(fit: _Fit) -> int:
    """Return what the model takes of its GPUs; of a unified one its whole, out of the GPU's share."""
    offload = fit.placement.offload
    if offload is None:
        return 0
    return fit.memory.joint if offload.unified else fit.memory.joint_device


def _settings(subject: Subject, selection: Selection, fit: _Fit, pooling: Pooling | None) -> LaunchSettings:
    sizing = fit.sizing
    cache = sizing.prompt_cache
    return LaunchSettings(
        role=subject.role,
        port=0,
        context=sizing.context,
        threads=sizing.threads,
        slots=sizing.slots,
        batch=sizing.batch,
        pooling=pooling,
        gpu=fit.placement.word,
        gpu_layers=fit.placement.layers,
        flash_attention=sizing.flash_attention,
        prompt_cache_mib=None if cache is None else cache // _MIB,
        model=selection.weights,
        alias=subject.name,
    )


def _gpu_reason(placement: Placement, tuned: TunedSettings | None) -> Reason:
    if tuned is None or not tuned.variant.cpu_only:
        return placement.reason
    return replace(placement.reason, why=tuned.describe())


def _sizing_reasons(sizing: Sizing) -> list[Reason]:
    """Return a reason for every setting that the sizing holds."""
    cache = sizing.prompt_cache
    shown = {
        "context": f"{sizing.context} tokens a slot",
        "slots": str(sizing.slots),
        "batch": "not passed" if sizing.batch is None else f"{sizing.batch} tokens",
        "threads": str(sizing.threads),
        "replicas": str(sizing.replicas),
        "flash_attention": {None: None, True: "on", False: "off"}[sizing.flash_attention],
        "prompt_cache": None if cache is None else f"{cache // _MIB} MiB",
    }
    return [Reason(name, text, sizing.why[name]) for name, text in shown.items() if text is not None]


def _dimensions(subject: Subject, gguf: GgufFacts) -> int | None:
    if subject.role is not Role.EMBED:
        return None
    known = subject.model.dimensions if subject.model else None
    return known or gguf.embedding_length


def _max_tokens(subject: Subject, gguf: GgufFacts, sizing: Sizing) -> int | None:
    if subject.role is Role.GENERATE:
        return None
    return min(sizing.context, text_limit(gguf, subject.model))


def _choose_pooling(subject: Subject) -> tuple[Pooling | None, Reason | None]:
    """Return how token vectors become one, None where nothing tells or nothing is embedded."""
    weights = subject.facts.model
    if subject.role is Role.GENERATE or weights is None:
        return None, None
    if subject.role is Role.RERANK:
        if weights.gguf.pooling not in (None, Pooling.RANK.value):
            raise PlanError(
                f"{subject.name} is no reranker: its file pools by {weights.gguf.pooling}",
                hint=f"llamafile-mgr serve --embed {subject.name}",
            )
        return Pooling.RANK, Reason("pooling", "rank", "a reranker gives one score for a pair of texts")
    if subject.model is not None and subject.model.pooling is not None:
        pooling, why = subject.model.pooling, "the model's card says so"
    elif weights.gguf.pooling is not None:
        pooling, why = Pooling(weights.gguf.pooling), "the file says so"
    else:
        return None, None
    return pooling, Reason("pooling", pooling.value, why)


def _no_pooling(subject: Subject) -> PlanError:
    return PlanError(
        f"nothing tells how {subject.name} pools its token vectors",
        cause="the file has no pooling type and the catalog does not know the model",
        hint="use a file whose GGUF names its pooling type",
    )


def _choose_eos(subject: Subject, family: Family, gguf: GgufFacts) -> tuple[bool, Reason | None]:
    """Return whether the end-of-sequence text must be put behind every text, and why."""
    if subject.role is not Role.EMBED or subject.model is None or not subject.model.append_eos:
        return False, None
    if not family_rules(family).ends_sequences:
        return True, Reason(
            "end of sequence", "appended", f"the model wants it and {family.value} never adds it"
        )
    if gguf.add_eos is True:
        return False, Reason("end of sequence", "by the engine", "the file asks the engine for it")
    return True, Reason("end of sequence", "appended", "the model wants it and its file does not ask for it")
