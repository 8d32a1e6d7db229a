"""What was planned against what runs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from llamafile_mgr.engines.engine_reports import EngineReport
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.planner.memory import format_size
from llamafile_mgr.planner.plans import Plan

#: A process that holds less of a GPU than this share of the weights that were planned there lacks layers.
_LEAST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Where and how an engine computes, as planned or as it is; None where nothing tells.

    ``device``: the GPUs, or ``cpu``. ``layers``: how many lie on GPUs, of how many. ``context``: tokens of a
    slot. ``batch``: tokens of a physical batch. ``gpu_bytes``: GPU memory of one engine.
    """

    device: str | None
    layers: tuple[int, int] | None
    context: int | None
    slots: int | None
    batch: int | None
    gpu_bytes: int | None


@dataclass(frozen=True, slots=True)
class Deviation:
    """One difference. ``of_gpu``: less of a GPU is used than was planned."""

    setting: str
    planned: str
    actual: str
    cause: str
    of_gpu: bool = False

    def describe(self) -> str:
        """Return it in words."""
        return f"{self.setting}: {self.planned} planned, {self.actual} found: {self.cause}"


def planned_run(plan: Plan, settings: LaunchSettings) -> RunFacts:
    """Return what an engine of ``plan`` should be; ``settings``: those that it was started with."""
    on_gpu = settings.gpu not in (None, "disable")
    memory = plan.memory
    return RunFacts(
        device=plan.device if on_gpu else "cpu",
        layers=_planned_layers(plan, settings) if on_gpu else None,
        context=settings.context,
        slots=settings.slots,
        batch=settings.batch,
        gpu_bytes=memory.device if on_gpu and memory is not None else None,
    )


def actual_run(report: EngineReport) -> RunFacts:
    """Return what an engine is, as far as it and its GPU's driver tell."""
    names = " + ".join(report.devices)
    device = names or {True: "a GPU", False: "cpu", None: None}[report.on_gpu]
    return RunFacts(device, report.layers, report.context, report.slots, report.batch, report.gpu_bytes)


def find_deviations(plan: Plan, settings: LaunchSettings, report: EngineReport) -> tuple[Deviation, ...]:
    """Return every difference that matters, each with its cause. What nothing tells is none.

    More context than was asked for is none either: engines round it up.
    """
    planned, actual = planned_run(plan, settings), actual_run(report)
    found = _device_deviations(plan, settings, planned, actual, report)
    if settings.gpu_required and report.on_gpu is None:
        cause = "neither its log nor the GPU's driver tells whether it is used"
        found.append(Deviation("device", planned.device or "cpu", "unknown", cause))
    context, slots, batch = planned.context or 0, planned.slots, planned.batch
    if actual.slots is not None and slots is not None and actual.slots != slots:
        found.append(Deviation("slots", str(slots), str(actual.slots), _cause(report, "its own arguments")))
    elif actual.context is not None and actual.context < context:
        cause = _cause(report, "the engine divides or caps it, or its own arguments say so")
        found.append(Deviation("context", f"{context} tokens", f"{actual.context} tokens", cause))
    if batch is not None and actual.batch is not None and actual.batch != batch:
        cause = _cause(report, "its own arguments, or its release, set another")
        found.append(Deviation("batch", f"{batch} tokens", f"{actual.batch} tokens", cause))
    return tuple(found)


def _device_deviations(
    plan: Plan, settings: LaunchSettings, planned: RunFacts, actual: RunFacts, report: EngineReport
) -> list[Deviation]:
    wanted = planned.device or "cpu"
    if planned.device == "cpu":
        if report.on_gpu:
            cause = "the engine took a GPU that the plan leaves to others"
            return [Deviation("device", "cpu", actual.device or "a GPU", cause)]
        return []
    if report.on_gpu is False:
        cause = _cause(
            report, "the engine found no GPU that it can use: see its log, and llamafile-mgr doctor"
        )
        return [Deviation("device", wanted, "cpu", cause, of_gpu=True)]
    if planned.layers and actual.layers and actual.layers[0] < planned.layers[0]:
        cause = _cause(report, "less GPU memory was free than when it was planned")
        # Of a part that the engine fits itself the plan has but an estimate.
        certain = planned.layers[0] == planned.layers[1] or settings.gpu_layers is not None
        return [Deviation("layers", _of(planned.layers), _of(actual.layers), cause, of_gpu=certain)]
    expected = plan.memory.device_weights if plan.memory is not None else 0
    if actual.gpu_bytes is not None and not report.weights and actual.gpu_bytes < _LEAST_SHARE * expected:
        shown = format_size(expected), format_size(actual.gpu_bytes)
        return [Deviation("GPU memory", *shown, "fewer layers lie on the GPU than were planned", of_gpu=True)]
    return []


def _planned_layers(plan: Plan, settings: LaunchSettings) -> tuple[int, int] | None:
    if plan.layers is None or settings.gpu_layers is None:
        return plan.layers
    return min(plan.layers[0], settings.gpu_layers), plan.layers[1]


def _of(layers: tuple[int, int]) -> str:
    return f"{layers[0]} of {layers[1]}"


def _cause(report: EngineReport, otherwise: str) -> str:
    return "; ".join(report.causes) or otherwise
