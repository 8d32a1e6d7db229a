"""What ``doctor`` says of engines that run."""

from __future__ import annotations

from typing import Any

from llamafile_mgr.machine.check_engines import check_running
from llamafile_mgr.machine.findings import CheckOutcome


def model(*engines: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "engines": list(engines)}


def engine(device: str | None, *deviations: str) -> dict[str, Any]:
    return {"name": "m-1", "actual": {"device": device}, "deviations": deviations}


def test_nothing_runs() -> None:
    assert check_running([]) == ()
    assert check_running([model({"name": "m-1", "actual": None, "deviations": ()})]) == ()


def test_all_as_planned() -> None:
    (check,) = check_running([model(engine("CUDA0"), engine("cpu"), engine("cpu"))])
    assert check.outcome is CheckOutcome.PASS
    assert check.finding == "3 running as planned, on CUDA0 and cpu"


def test_an_engine_that_tells_nothing() -> None:
    (check,) = check_running([model(engine(None))])
    assert "a device that they do not tell" in check.finding


def test_a_gpu_that_is_not_used() -> None:
    (check,) = check_running(
        [model(engine("cpu", "device: RTX 4090 planned, cpu found: no driver"), engine("cpu"))]
    )
    assert check.outcome is CheckOutcome.WARN
    assert check.finding == "m-1: device: RTX 4090 planned, cpu found: no driver"
    assert check.consequence
    assert "require_gpu" in (check.fix or "")
