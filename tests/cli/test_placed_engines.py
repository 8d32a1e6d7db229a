"""How ``ps`` and ``status`` show where engines compute; the values are those of a running serve."""

from __future__ import annotations

from typing import Any

import pytest

from llamafile_mgr.cli import ps, status

GPU = {
    "device": "RTX 4090",
    "layers": [33, 33],
    "context": 8192,
    "slots": 2,
    "batch": None,
    "gpu_bytes": 6 * 10**9,
}
USED = {
    "device": "CUDA0",
    "layers": [33, 33],
    "context": 8192,
    "slots": 2,
    "batch": 512,
    "gpu_bytes": 5 * 10**9,
}
UNUSED = {"device": "cpu", "layers": [0, 33], "context": 8192, "slots": 2, "batch": 512, "gpu_bytes": None}
PART = {**USED, "layers": [20, 33]}
CPU = {"device": "cpu", "layers": None, "context": 512, "slots": 4, "batch": 512, "gpu_bytes": None}


def engine(planned: Any, actual: Any, *deviations: str) -> dict[str, Any]:
    return {"planned": planned, "actual": actual, "deviations": list(deviations)}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (engine(GPU, USED), ("CUDA0", "33 of 33")),
        (engine(GPU, UNUSED, "device: ..."), ("cpu (RTX 4090)", "0 of 33 (33)")),
        (engine(GPU, PART, "layers: ..."), ("CUDA0", "20 of 33 (33)")),
        (engine(CPU, CPU), ("cpu", "-")),
        (engine(GPU, None), ("-", "-")),
        (engine(None, None), ("-", "-")),
    ],
)
def test_ps(shown: dict[str, Any], expected: tuple[str, str]) -> None:
    assert ps._placed(shown) == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            USED,
            "on CUDA0, 33 of 33 layers offloaded, 5.00 GB of GPU memory, 8192 tokens a slot, 2 slots, "
            "batches of 512",
        ),
        (CPU, "on cpu, 512 tokens a slot, 4 slots, batches of 512"),
        (dict.fromkeys(CPU), "nothing tells"),
    ],
)
def test_status(facts: dict[str, Any], expected: str) -> None:
    assert status._describe_run(facts) == expected
