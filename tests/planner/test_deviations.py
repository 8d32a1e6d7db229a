"""What was planned against what runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engines.engine_reports import EngineReport
from llamafile_mgr.errors import PlanError
from llamafile_mgr.planner.deviations import actual_run, find_deviations, planned_run
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from tests.planner import samples

MIB = 1 << 20


def plan(model: object = samples.mistral_v1, machine: object = samples.GPU_24GB, **wish: object) -> Plan:
    toolbox = samples.with_runtimes(samples.RUNTIME, python=True)
    (found,) = plan_models((model,), machine, toolbox, {}, {model.name: ModelConfig(**wish)})  # type: ignore
    return found


WHOLE = plan()
PART = plan(machine=samples.GPU_4GB)
CPU = plan(machine=samples.DESKTOP_32GB)
ENCODER = plan(samples.mxbai_gguf, samples.DESKTOP_32GB)

Row = tuple[Plan, EngineReport, str | None]
ON_GPU = EngineReport({"CPU": 70 * MIB, "CUDA0": 4000 * MIB}, (33, 33))
ROWS: dict[str, Row] = {
    "as planned": (WHOLE, ON_GPU, None),
    "nothing tells": (WHOLE, EngineReport(), None),
    "no GPU, no reason": (
        WHOLE,
        EngineReport({"CPU": 4000 * MIB}, (0, 33)),
        "device: RTX 4090 planned, cpu found: the engine found no GPU that it can use",
    ),
    "no GPU, with its reason": (
        WHOLE,
        EngineReport({"CPU": 4000 * MIB}, causes=("CUDA did not start: unknown error",)),
        "device: RTX 4090 planned, cpu found: CUDA did not start: unknown error",
    ),
    "layers promised, and none there": (
        WHOLE,
        EngineReport({"CPU": 4000 * MIB, "CUDA_Host": MIB}, (33, 33)),
        "device: RTX 4090 planned, cpu found",
    ),
    "some layers": (
        WHOLE,
        replace(ON_GPU, layers=(20, 33)),
        "layers: 33 of 33 planned, 20 of 33 found: less GPU memory was free",
    ),
    "as many layers as planned": (PART, replace(ON_GPU, layers=PART.layers), None),
    "fewer than the planned part": (PART, replace(ON_GPU, layers=(3, 33)), "layers: "),
    "the driver sees nothing": (WHOLE, EngineReport(gpu_bytes=0), "device: RTX 4090 planned, cpu found"),
    "the driver sees too little": (WHOLE, EngineReport(gpu_bytes=600 * MIB), "GPU memory: 4.42 GB planned"),
    "the driver sees enough": (WHOLE, EngineReport(gpu_bytes=5000 * MIB), None),
    "a GPU that was not planned": (CPU, ON_GPU, "device: cpu planned, CUDA0 found: the engine took a GPU"),
    "the processor": (CPU, EngineReport({"CPU": 4000 * MIB}, context=16384, slots=1), None),
    "less context": (CPU, EngineReport(context=512), "context: 16384 tokens planned, 512 tokens found"),
    "more context": (CPU, EngineReport(context=16640), None),
    "other slots": (CPU, EngineReport(slots=4), "slots: 1 planned, 4 found"),
    "another batch": (ENCODER, EngineReport(batch=2048), "batch: 512 tokens planned, 2048 tokens found"),
    "its batch": (ENCODER, EngineReport(batch=512, slots=16, context=512), None),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_deviations(row: Row) -> None:
    planned, report, expected = row
    told = [each.describe() for each in find_deviations(planned, planned.settings, report)]
    assert [text.startswith(expected or "never") for text in told] == ([True] if expected else []), told


def test_what_a_required_gpu_is_lost_for() -> None:
    """The part that an engine fits itself is an estimate; what it was told, or all of it, is none."""
    fitted = plan(samples.mistral, samples.GPU_4GB)
    for planned, layers, expected in (
        (WHOLE, (32, 33), True),
        (PART, (3, 33), True),
        (fitted, (3, 33), False),
        (fitted, (0, 33), True),
    ):
        weights = {"CPU": MIB} if layers[0] == 0 else ON_GPU.weights
        report = replace(ON_GPU, weights=weights, layers=layers)
        (found,) = find_deviations(planned, planned.settings, report)
        assert found.of_gpu is expected


def test_the_shown_facts_have_the_same_form() -> None:
    wanted, found = planned_run(WHOLE, WHOLE.settings), actual_run(ON_GPU)
    assert (wanted.device, wanted.layers) == ("RTX 4090", (33, 33))
    assert (found.device, found.layers) == ("CUDA0", (33, 33))
    assert wanted.gpu_bytes is not None
    assert planned_run(CPU, CPU.settings).gpu_bytes is None


def test_a_step_down_is_what_counts_afterwards() -> None:
    """An engine that was started again with less is held against that."""
    fewer, none = replace(WHOLE.settings, gpu_layers=16), replace(WHOLE.settings, gpu="disable")
    assert not find_deviations(WHOLE, fewer, replace(ON_GPU, layers=(16, 33)))
    assert not find_deviations(WHOLE, none, EngineReport({"CPU": 4000 * MIB}))


@pytest.mark.parametrize("where", [samples.DESKTOP_32GB, samples.UNUSABLE_GPU])
def test_a_required_gpu_that_is_not_there_is_an_error(where: object) -> None:
    with pytest.raises(PlanError, match="would run without a GPU, and its settings require one") as caught:
        plan(machine=where, require_gpu=True)
    assert "GPU" in (caught.value.cause or "")
    assert "doctor" in (caught.value.hint or "")


def test_a_required_gpu_is_no_flag() -> None:
    required = plan(require_gpu=True)
    assert required.settings.gpu_required
    assert required.command(1, None) == WHOLE.command(1, None)
