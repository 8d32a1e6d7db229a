"""An engine that does not run as it was planned: it is told, and a failure where a GPU is required.

The fake engine prints recorded lines: no computer with a GPU was at hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from llamafile_mgr.changes import Changes
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.degradation import degrade
from llamafile_mgr.supervisor.diagnosis import Diagnosis, Kind
from llamafile_mgr.supervisor.engine import Engine
from llamafile_mgr.supervisor.states import EngineState
from tests.engines.recorded_logs import RECORDINGS
from tests.support.lives import Checks, fake_plan, surroundings


def gpu_plan(recording: str, *, required: bool = False) -> Plan:
    """Return a plan for a GPU, for a program that prints what another one printed."""
    plan = fake_plan("--say", RECORDINGS[recording].text)
    settings = replace(plan.settings, gpu="nvidia", gpu_required=required)
    return replace(plan, settings=settings, device="RTX 4090", layers=(37, 37))


@asynccontextmanager
async def settled(home: Path, plan: Plan) -> AsyncIterator[Engine]:
    """Run an engine of this plan until it is ready or has failed, then for the block."""
    changes = Changes()
    engine = Engine("m", plan, Checks(), surroundings(home, changes))
    task = asyncio.create_task(engine.run())
    try:
        over = (EngineState.READY, EngineState.FAILED)
        assert await changes.wait_for(lambda: engine.state in over, 30.0)
        yield engine
    finally:
        engine.request_stop(1.0)
        await asyncio.wait_for(task, 10)


async def test_a_gpu_that_is_used(tmp_path: Path) -> None:
    async with settled(tmp_path, gpu_plan("cuda-2026", required=True)) as engine:
        shown = engine.snapshot()
        assert shown.state is EngineState.READY
        assert shown.planned is not None
        assert shown.planned.device == "RTX 4090"
        assert shown.actual is not None
        assert (shown.actual.device, shown.actual.layers) == ("CUDA0 + CUDA1", (37, 37))
        assert shown.deviations == ()


async def test_a_gpu_that_is_not_used_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with settled(tmp_path, gpu_plan("cuda-that-does-not-start")) as engine:
        shown = engine.snapshot()
        assert shown.state is EngineState.READY
        assert shown.actual is not None
        assert shown.actual.device == "cpu"
        (told,) = shown.deviations
        assert told.startswith(
            "device: RTX 4090 planned, cpu found: CUDA did not start: no CUDA-capable device"
        )
        assert f"m does not run as planned: {told}" in caplog.text


async def test_a_required_gpu_that_is_not_used_is_a_failure(tmp_path: Path) -> None:
    async with settled(tmp_path, gpu_plan("cuda-that-does-not-start", required=True)) as engine:
        shown = engine.snapshot()
        assert shown.state is EngineState.FAILED
        assert "it does not use the GPU as its settings require" in (shown.cause or "")
        assert "no CUDA-capable device is detected" in (shown.cause or "")
        assert engine.cause is not None
        assert 'unset require_gpu in [models."m"]' in (engine.cause.hint or "")


async def test_an_engine_that_tells_nothing_is_no_failure(tmp_path: Path) -> None:
    async with settled(tmp_path, gpu_plan("cpu-2026-quiet", required=True)) as engine:
        shown = engine.snapshot()
        assert shown.state is EngineState.READY
        assert shown.actual is not None
        assert shown.actual.device is None
        assert shown.deviations[0].endswith("neither its log nor the GPU's driver tells whether it is used")


@pytest.mark.parametrize("required", [False, True])
def test_no_step_down_leaves_a_required_gpu(required: bool) -> None:
    settings = LaunchSettings(
        gpu_plan("cuda-2026").role, 0, context=64, threads=1, gpu="nvidia", gpu_required=required
    )
    step = degrade(settings, Diagnosis("memory", kind=Kind.OUT_OF_MEMORY), ())
    assert (step is None) is required
