"""From models, a machine and a toolbox to plans that work together. Pure: no clock, no disk, no environment.

Every number comes with the rule that gave it. Embedding is planned first and keeps what it needs; generation
shrinks into what is left. Where even the smallest settings do not fit, the error does the arithmetic.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.engines.toolbox import Toolbox
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import GgufFacts
from llamafile_mgr.machine import Machine
from llamafile_mgr.machine.vendors import gpu_variables
from llamafile_mgr.planner.asked_features import AskedFeatures, read_asked
from llamafile_mgr.planner.budget import GpuBudget, HostBudget, gpu_budgets, is_worthwhile
from llamafile_mgr.planner.file_types import explain_file_type
from llamafile_mgr.planner.memory import MIB, MemoryEstimate, format_size, predict_memory
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.placement import Placement, place_model, take_from, word_for
from llamafile_mgr.planner.plans import Acceptance, Plan, Reason
from llamafile_mgr.planner.remotes import add_remotes, only_remotes
from llamafile_mgr.planner.selection import Selection, select_engine
from llamafile_mgr.planner.sizing import (
    CoreShare,
    Sizing,
    choose_sizing,
    fill_gpu,
    one_engine,
    shrink_steps,
)
from llamafile_mgr.planner.tuning import TunedSettings

_ORDER = {Role.EMBED: 0, Role.RERANK: 1, Role.GENERATE: 2}
#: Generation on a GPU gives up context and slots down to this before layers leave the GPU.
_WORTHWHILE_CONTEXT = 2048
#: Variables of ours that an engine may see, beside those of GPUs: where programs are, and the language.
#: What is not listed (``LLAMA_ARG_*``, tokens) stays out.
_PASSED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True, slots=True)
class _Situation:
    """What every model meets: the machine, what is installed, and what is still free of both memories."""

    machine: Machine
    toolbox: Toolbox
    environ: Mapping[str, str]
    share: CoreShare
    host: HostBudget
    gpus: tuple[GpuBudget, ...]
    more_to_come: bool
    limit: float


@dataclass(frozen=True, slots=True)
class _Fit:
    """A sizing with its place and its memory. ``warning``: it fits the machine, but not what is free now."""

    sizing: Sizing
    placement: Placement
    memory: MemoryEstimate
    warning: str | None = None


def plan_models(
    specs: tuple[ModelSpec, ...],
    machine: Machine,
    toolbox: Toolbox,
    environ: Mapping[str, str],
    overrides: Mapping[str, ModelConfig],
    tuned: Mapping[str, Sequence[TunedSettings]] | None = None,
    *,
    limit: int | None = None,
) -> tuple[Plan, ...]:
    """Return one plan per spec, in their order, for all of them running at once.

    ``overrides`` and ``tuned`` are keyed by the specs' names; an override wins over a measurement. Of the
    measurements, one per engine family, the one of the engine that is taken counts. ``limit``: bytes that
    all of them may take, wherever they lie.

    Raises:
        PlanError: one of them cannot run here, or not beside the others.
    """
    cores = max(1, machine.cpu.usable_cores // max(1, len(specs)))
    share = CoreShare(machine.cpu, cores, len(specs) - 1)
    host, gpus = HostBudget.of(machine), gpu_budgets(machine, environ)
    allowed = inf if limit is None else limit
    plans: dict[int, Plan] = {}
    order = sorted(range(len(specs)), key=lambda at: _ORDER[specs[at].role])
    for position, at in enumerate(order):
        spec = specs[at]
        more = any(specs[later].role is not Role.EMBED for later in order[position + 1 :])
        situation = _Situation(machine, toolbox, environ, share, host, gpus, more, allowed)
        override = overrides.get(spec.name, ModelConfig())
        if override.replicas == 0:
            plans[at] = _plan_remotes(spec, situation, override)
            continue
        plan, fit = _plan_model(spec, situation, override, (tuned or {}).get(spec.name, ()))
        plans[at] = add_remotes(plan, override.remote)
        host = host.take(spec.name, fit.memory.joint)
        gpus = take_from(gpus, fit.placement.gpus, _device_bytes(fit))
        allowed -= fit.memory.everywhere
    return tuple(plans[at] for at in range(len(specs)))


def _plan_model(
    spec: ModelSpec, situation: _Situation, override: ModelConfig, measured: Sequence[TunedSettings]
) -> tuple[Plan, _Fit]:
    pooling, pooling_reason = _choose_pooling(spec)
    asked = read_asked(spec, override)
    selection = select_engine(
        spec,
        situation.machine,
        situation.toolbox,
        pooling,
        asked,
        allow_known_bad=override.allow_known_bad,
    )
    gguf = spec.gguf
    if gguf is None:
        raise PlanError(f"{spec.name} holds no model")
    if pooling_reason is None and spec.role is Role.EMBED:
        raise _no_pooling(spec)
    tuned = next((each for each in measured if each.family is selection.family), None)
    if tuned is not None and tuned.variant.cpu_only:
        situation = replace(situation, gpus=())
    free, on_gpu = _best_memory(selection, situation)
    sizing = choose_sizing(
        spec, gguf, selection.family, situation.share, override, tuned, asked.extras, free, on_gpu
    )
    fit = _fit(spec, selection, sizing, situation)
    if override.require_gpu and fit.placement.offload is None:
        raise _no_gpu(spec, fit.placement)
    gpu_reason = fit.placement.reason
    if tuned is not None and tuned.variant.cpu_only:
        gpu_reason = replace(gpu_reason, why=tuned.describe())
    reasons = [selection.reason, *_sizing_reasons(fit.sizing), gpu_reason]
    reasons += [pooling_reason] if pooling_reason is not None else []
    append_eos, eos_reason = _choose_eos(spec, selection.family, gguf)
    reasons += [eos_reason] if eos_reason is not None else []
    reasons += asked.reasons
    if fit.placement.offload is None:
        measured_types = tuned.types if tuned is not None else ()
        file_reason = explain_file_type(
            spec.model, gguf.quantisation, selection.family, situation.machine.cpu, measured_types
        )
        reasons += [file_reason] if file_reason is not None else []
    repack = family_rules(selection.family).repacks(gguf.quantisation, situation.machine.cpu)
    settings = replace(
        _settings(spec, selection, fit, pooling, asked), gpu_required=override.require_gpu, repack=repack
    )
    repack_reason, repack_warning = _tell_repacking(selection.family, settings)
    reasons += [repack_reason] if repack_reason is not None else []
    reasons.append(Reason("memory", format_size(fit.memory.everywhere), fit.memory.describe()))
    accepted = Acceptance(selection.known_bad, override.least_cosine, override.any_meaning)
    told = (
        *accepted.describe(),
        selection.warning,
        family_rules(selection.family).unprotected,
        fit.warning,
        repack_warning,
        *_replaced(selection.family, settings),
    )
    plan = Plan(
        name=spec.name,
        role=spec.role,
        family=selection.family,
        program=selection.program,
        settings=settings,
        environment=_environment(selection.family, situation, fit.placement),
        reasons=tuple(reasons),
        path=spec.path,
        weights_digest=spec.digest,
        quantisation=gguf.quantisation,
        model=spec.model,
        dimensions=spec.dimensions,
        max_tokens=None if spec.role is Role.GENERATE else min(fit.sizing.context, spec.text_limit),
        replicas=fit.sizing.replicas,
        memory=fit.memory,
        device=fit.placement.device,
        layers=_layers_of(fit.placement),
        accelerated=fit.placement.accelerated,
        crowded=fit.warning is not None,
        append_eos=append_eos,
        tuned=tuned is not None and any(reason.why == tuned.describe() for reason in reasons),
        features=asked.features,
        vector_arguments=family_rules(selection.family).vector_arguments(asked.engine_args),
        warnings=tuple(text for text in told if text is not None),
        accepted=accepted,
    )
    return plan, fit


def _plan_remotes(spec: ModelSpec, situation: _Situation, override: ModelConfig) -> Plan:
    """Return the plan of a model that only remotes serve: nothing of it has to fit here."""
    elsewhere = replace(situation, host=HostBudget(), gpus=())
    plan, _ = _plan_model(spec, elsewhere, replace(override, replicas=1), ())
    return only_remotes(plan, override.remote)


def _fit(spec: ModelSpec, selection: Selection, sizing: Sizing, situation: _Situation) -> _Fit:
    """Return the best sizing that fits: wholly on a GPU, in free memory, or at least in the machine."""
    floor = min(sizing.context, _WORTHWHILE_CONTEXT)
    largest: _Fit | None = None
    for step in shrink_steps(sizing):
        smallest = _place(spec, selection, step, situation)
        memory = smallest.memory
        if memory.everywhere > situation.limit or memory.joint > situation.host.now:
            continue
        largest = largest or smallest
        if not situation.gpus or (smallest.placement.full and smallest.sizing.context >= floor):
            return smallest
    if largest is not None:
        return largest
    if memory.everywhere > situation.limit or memory.joint > situation.host.ever:
        raise _too_large(spec, memory, situation)
    free = f"{format_size(situation.host.now)} are free now"
    warning = f"it needs {format_size(memory.joint)} of main memory and {free}: close other programs"
    return replace(smallest, warning=warning)


def _place(spec: ModelSpec, selection: Selection, sizing: Sizing, situation: _Situation) -> _Fit:
    def place(size: Sizing) -> Placement:
        return place_model(
            spec.facts,
            size.load(on_gpu=True),
            situation.gpus,
            selection.gpu_modules,
            situation.environ,
            spare_largest=situation.more_to_come,
            host_now=situation.host.now,
        )

    filled = fill_gpu(sizing)
    placement = place(filled)
    if placement.accelerated:
        sizing = filled
    elif filled is not sizing:
        placement = place(sizing)
    if placement.offload is not None:
        sizing = one_engine(sizing, situation.share.cores, "a GPU is kept busy by one engine")
    memory = predict_memory(
        spec.facts,
        sizing.load(on_gpu=placement.offload is not None),
        replicas=sizing.replicas,
        offload=placement.offload,
    )
    return _Fit(sizing, placement, memory)


def _too_large(spec: ModelSpec, memory: MemoryEstimate, situation: _Situation) -> PlanError:
    host = situation.host
    beside = f" beside {' and '.join(host.taken)}" if host.taken else ""
    if memory.everywhere > situation.limit:
        where, needed = "what is allowed", memory.everywhere
        left = f"{format_size(max(0, situation.limit))} are allowed"
    else:
        where, needed = "this machine's memory", memory.joint
        whole = format_size(host.size)
        left = f"{format_size(host.ever)} are left of this machine's {whole}, the system's part aside"
    return PlanError(
        f"{spec.name} does not fit into {where}{beside}",
        cause=(
            f"with its smallest settings {spec.name} needs {format_size(needed)}, and {left}"
            f"; that is {memory.describe()}"
        ),
        hint="take a smaller file of the model or a smaller model: llamafile-mgr recommend",
    )


def _environment(family: Family, situation: _Situation, placement: Placement) -> dict[str, str]:
    """Return the whole environment of an engine."""
    environ, toolbox = situation.environ, situation.toolbox
    passed = {name: environ[name] for name in (*_PASSED, *gpu_variables()) if name in environ}
    ours = {"HOME": str(toolbox.home), "TMPDIR": str(toolbox.temporary), **placement.environment}
    return passed | ours | family_rules(family).environment(toolbox)


def _best_memory(selection: Selection, situation: _Situation) -> tuple[float, bool]:
    """Return the free bytes of the memory in which the model would best lie, and whether it is a GPU's."""
    family, modules = selection.family, selection.gpu_modules
    usable = situation.gpus if family_rules(family).uses_gpus else ()
    usable = tuple(budget for budget in usable if word_for(budget.gpu, family, modules) is not None)
    sizes = [budget.free for budget in usable if is_worthwhile(budget.gpu)]
    return min(max(sizes, default=situation.host.now), situation.limit), bool(sizes)


def _layers_of(placement: Placement) -> tuple[int, int] | None:
    offload = placement.offload
    return None if offload is None else (offload.layers, offload.of)


def _no_gpu(spec: ModelSpec, placement: Placement) -> PlanError:
    return PlanError(
        f"{spec.name} would run without a GPU, and its settings require one",
        cause=placement.reason.why,
        hint=f'see `llamafile-mgr doctor`, or unset require_gpu in [models."{spec.name}"]',
    )


def _device_bytes(fit: _Fit) -> int:
    """Return what the model takes of its GPUs; of a unified one its whole, out of the GPU's share."""
    offload = fit.placement.offload
    if offload is None:
        return 0
    return fit.memory.joint if offload.unified else fit.memory.joint_device


def _settings(
    spec: ModelSpec, selection: Selection, fit: _Fit, pooling: Pooling | None, asked: AskedFeatures
) -> LaunchSettings:
    sizing = fit.sizing
    cache = sizing.prompt_cache
    return LaunchSettings(
        role=spec.role,
        port=0,
        context=sizing.context,
        threads=sizing.threads,
        batch_threads=sizing.batch_threads,
        slots=sizing.slots,
        batch=sizing.batch,
        pooling=pooling,
        gpu=fit.placement.word,
        gpu_layers=fit.placement.layers,
        flash_attention=sizing.flash_attention,
        prompt_cache_mib=None if cache is None else cache // MIB,
        model=selection.weights,
        alias=spec.name,
        known_flags=selection.known_flags,
        asked=family_rules(selection.family).asked_flags(asked.features, asked.engine_args),
    )


def _tell_repacking(family: Family, settings: LaunchSettings) -> tuple[Reason | None, str | None]:
    """Return why weights stay as they are in the file, or a warning where the program cannot be told so."""
    if settings.repack is not False:
        return None, None
    why = "builds for AMX were seen to crash on quantised weights"
    rules = family_rules(family)
    if rules.arguments(settings) == rules.arguments(replace(settings, repack=None)):
        return None, f"{why}, and this one has no flag against it: take F16 weights, or a newer build"
    return Reason("repack", "no", why), None


def _replaced(family: Family, settings: LaunchSettings) -> list[str]:
    """Say which of our own flags those of the settings take the place of."""
    gone = shlex.join(family_rules(family).replaced_flags(settings))
    return [f"engine_args stand in for {gone}, with which memory and speed were planned"] if gone else []


def _sizing_reasons(sizing: Sizing) -> list[Reason]:
    """Return a reason for every setting that the sizing holds."""
    cache = sizing.prompt_cache
    shown = {
        "context": f"{sizing.context} tokens a slot",
        "slots": str(sizing.slots),
        "batch": "not passed" if sizing.batch is None else f"{sizing.batch} tokens",
        "threads": str(sizing.threads),
        "batch_threads": None if sizing.batch_threads is None else str(sizing.batch_threads),
        "replicas": str(sizing.replicas),
        "flash_attention": {None: None, True: "on", False: "off"}[sizing.flash_attention],
        "prompt_cache": None if cache is None else f"{cache // MIB} MiB",
    }
    return [Reason(name, text, sizing.why[name]) for name, text in shown.items() if text is not None]


def _choose_pooling(spec: ModelSpec) -> tuple[Pooling | None, Reason | None]:
    """Return how token vectors become one, None where nothing tells or nothing is embedded."""
    gguf = spec.gguf
    if spec.role is Role.GENERATE or gguf is None:
        return None, None
    if spec.role is Role.RERANK:
        if gguf.pooling not in (None, Pooling.RANK.value):
            raise PlanError(
                f"{spec.name} is no reranker: its file pools by {gguf.pooling}",
                hint=f"llamafile-mgr serve --embed {spec.name}",
            )
        return Pooling.RANK, Reason("pooling", "rank", "a reranker gives one score for a pair of texts")
    if spec.model is not None and spec.model.pooling is not None:
        pooling, why = spec.model.pooling, "the model's card says so"
    elif gguf.pooling is not None:
        pooling, why = Pooling(gguf.pooling), "the file says so"
    else:
        return None, None
    return pooling, Reason("pooling", pooling.value, why)


def _no_pooling(spec: ModelSpec) -> PlanError:
    return PlanError(
        f"nothing tells how {spec.name} pools its token vectors",
        cause="the file has no pooling type and the catalog does not know the model",
        hint="use a file whose GGUF names its pooling type",
    )


def _choose_eos(spec: ModelSpec, family: Family, gguf: GgufFacts) -> tuple[bool, Reason | None]:
    """Return whether the end-of-sequence text must be put behind every text, and why."""
    if spec.role is not Role.EMBED or spec.model is None or not spec.model.append_eos:
        return False, None
    if not family_rules(family).ends_sequences:
        return True, Reason(
            "end of sequence", "appended", f"the model wants it and {family.value} never adds it"
        )
    if gguf.add_eos is True:
        return False, Reason("end of sequence", "by the engine", "the file asks the engine for it")
    return True, Reason("end of sequence", "appended", "the model wants it and its file does not ask for it")
