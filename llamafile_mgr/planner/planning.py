"""From a model, a machine and a toolbox to a plan. Pure: no clock, no disk, no environment.

Every number comes with the rule that gave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engines.settings import LaunchSettings
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import Family, GgufFacts
from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.plans import Plan, Reason
from llamafile_mgr.planner.selection import Selection, select_engine
from llamafile_mgr.planner.subjects import Subject, Toolbox

__all__ = ["plan_model", "plan_models"]

#: Used where neither the file nor the catalog tells.
_DEFAULT_CONTEXT = 4096
#: Causal embedding models are advised to 4,096 tokens; generation starts there: the KV cache grows with it.
_LARGEST_CONTEXT = 4096
_EMBED_SLOTS, _GENERATE_SLOTS = 4, 2
_ALL_LAYERS = 999
#: Environment variables that an engine may see of ours: where programs and GPUs are, and the language.
_PASSED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "SYSTEMROOT",
)


@dataclass(frozen=True, slots=True)
class _Share:
    """What one model gets of the machine. ``others``: how many models run beside it."""

    threads: int
    others: int


def plan_models(
    subjects: tuple[Subject, ...],
    machine: Machine,
    toolbox: Toolbox,
    environ: Mapping[str, str],
    wishes: Mapping[str, ModelConfig],
) -> tuple[Plan, ...]:
    """Return one plan per subject, for all of them running at once.

    Raises:
        PlanError: one of them cannot run here.
    """
    threads = max(1, machine.cpu.usable_cores // max(1, len(subjects)))
    share = _Share(threads, len(subjects) - 1)
    return tuple(
        plan_model(subject, machine, toolbox, environ, wishes.get(subject.name, ModelConfig()), share)
        for subject in subjects
    )


def plan_model(
    subject: Subject,
    machine: Machine,
    toolbox: Toolbox,
    environ: Mapping[str, str],
    wish: ModelConfig,
    share: _Share,
) -> Plan:
    """Return the plan for one model. Raises PlanError."""
    selection = select_engine(subject, toolbox)
    weights = subject.facts.model
    if weights is None:
        raise PlanError(f"{subject.name} holds no model")
    gguf = weights.gguf
    reasons = [selection.reason]
    max_tokens, context, why = _choose_context(subject, selection.family, gguf, wish)
    reasons.append(Reason("context", f"{context} tokens a slot", why))
    slots = _choose_slots(subject, selection.family, wish, reasons)
    threads = _choose_threads(machine, wish, share, reasons)
    gpu, layers = _choose_gpu(machine, selection.family, weights.size, reasons)
    settings = LaunchSettings(
        role=subject.role,
        port=0,
        context=context,
        threads=threads,
        slots=slots,
        batch=_choose_batch(subject, selection.family, gguf, context, reasons),
        pooling=_choose_pooling(subject, gguf, reasons),
        gpu=gpu,
        gpu_layers=layers,
        model=selection.weights,
        alias=subject.name,
    )
    return Plan(
        name=subject.name,
        role=subject.role,
        family=selection.family,
        program=selection.program,
        settings=settings,
        environment=_make_environment(selection, toolbox, environ),
        reasons=tuple(reasons),
        path=subject.path,
        weights_digest=subject.digest,
        quantisation=gguf.quantisation,
        model=subject.model,
        dimensions=_dimensions(subject, gguf),
        max_tokens=max_tokens if subject.role is Role.EMBED else None,
    )


def _dimensions(subject: Subject, gguf: GgufFacts) -> int | None:
    if subject.role is not Role.EMBED:
        return None
    known = subject.model.dimensions if subject.model else None
    return known or gguf.embedding_length


def _choose_context(
    subject: Subject, family: Family, gguf: GgufFacts, wish: ModelConfig
) -> tuple[int, int, str]:
    """Return the longest text, the context per slot, and why."""
    limit = gguf.context_length or _DEFAULT_CONTEXT
    if subject.model is not None and subject.model.max_tokens is not None:
        limit = min(limit, subject.model.max_tokens)
    if wish.context is not None:
        return min(wish.context, limit), wish.context, "set in the configuration"
    context = min(limit, _LARGEST_CONTEXT)
    if subject.role is Role.EMBED and not _causal(gguf) and family is Family.V1:
        context = min(context, 512)
        return context, context, "the engine aborts on a BERT batch above its fixed 512"
    what = "what the model takes" if context == limit else "more would cost memory that few texts need"
    return context, context, what


def _causal(gguf: GgufFacts) -> bool:
    """Tell whether tokens look back only; GGUFs say it where they do not."""
    return gguf.causal is not False


def _choose_slots(subject: Subject, family: Family, wish: ModelConfig, reasons: list[Reason]) -> int:
    if family is Family.V1 and subject.role is Role.EMBED:
        slots, why = 1, "more than one slot nulls embeddings in this engine"
    elif wish.slots is not None:
        slots, why = wish.slots, "set in the configuration"
    elif family is Family.V1:
        slots, why = 1, "slots divide the context in this engine"
    elif subject.role is Role.EMBED:
        slots, why = _EMBED_SLOTS, "texts of one request are computed together"
    else:
        slots, why = _GENERATE_SLOTS, "two conversations at once"
    reasons.append(Reason("slots", str(slots), why))
    return slots


def _choose_threads(machine: Machine, wish: ModelConfig, share: _Share, reasons: list[Reason]) -> int:
    if wish.threads is not None:
        reasons.append(Reason("threads", str(wish.threads), "set in the configuration"))
        return wish.threads
    why = f"of {machine.cpu.usable_cores} usable cores"
    if share.others:
        why += f", shared with {share.others} other model{'s' if share.others > 1 else ''}"
    reasons.append(Reason("threads", str(share.threads), why))
    return share.threads


def _choose_batch(
    subject: Subject, family: Family, gguf: GgufFacts, context: int, reasons: list[Reason]
) -> int | None:
    if subject.role is not Role.EMBED or family in (Family.V1, Family.V2):
        return None
    if _causal(gguf):
        batch, why = min(context, 512), "a causal model's text may be split over batches"
    else:
        batch, why = context, "a whole text must fit one physical batch"
    reasons.append(Reason("batch", f"{batch} tokens", why))
    return batch


def _choose_pooling(subject: Subject, gguf: GgufFacts, reasons: list[Reason]) -> Pooling | None:
    if subject.role is not Role.EMBED:
        return None
    if subject.model is not None and subject.model.pooling is not None:
        reasons.append(Reason("pooling", subject.model.pooling.value, "the model's card says so"))
        return subject.model.pooling
    if gguf.pooling is not None:
        reasons.append(Reason("pooling", gguf.pooling, "the file says so"))
        return Pooling(gguf.pooling)
    raise PlanError(
        f"nothing tells how {subject.name} pools its token vectors",
        cause="the file has no pooling type and the catalog does not know the model",
        hint="use a file whose GGUF names its pooling type",
    )


def _choose_gpu(
    machine: Machine, family: Family, weights: int, reasons: list[Reason]
) -> tuple[str | None, int | None]:
    """Return the word for ``--gpu`` and, for engines without an automatic fit, the layers."""
    if family is Family.EMBEDDED:
        reasons.append(Reason("gpu", "none", "the embedded engine computes on the processor"))
        return "disable", None
    usable = [gpu for gpu in machine.gpus if gpu.backend and (machine.memory_of(gpu) or 0) > weights * 1.2]
    if not usable:
        why = "no GPU has room for the weights" if machine.gpus else "there is no GPU"
        reasons.append(Reason("gpu", "none", why))
        return "disable", None
    gpu = max(usable, key=lambda each: machine.memory_of(each) or 0)
    reasons.append(Reason("gpu", gpu.name, "its memory holds the weights"))
    return gpu.backend, None if family is Family.V10 else _ALL_LAYERS


def _make_environment(selection: Selection, toolbox: Toolbox, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the engine's whole environment; what is not listed here (``LLAMA_ARG_*``, tokens) stays out."""
    environment = {name: environ[name] for name in _PASSED if name in environ}
    environment |= {"HOME": str(toolbox.home), "TMPDIR": str(toolbox.temporary)}
    if selection.family is Family.EMBEDDED:
        environment["LLAMAFILE_MGR_PYTHON"] = str(toolbox.python)
        environment["PYTHONPATH"] = str(toolbox.package_root)
        environment["PYTHONUNBUFFERED"] = "1"
    return environment
