"""The file type that an engine computes the fastest, and what a plan says of one that is slower."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamafile_mgr.catalog import load_catalog
from llamafile_mgr.engines.families import Family
from llamafile_mgr.machine import Cpu
from llamafile_mgr.planner.file_types import explain_file_type, fastest_file, file_types
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.tuning import MeasuredType
from tests.planner import samples

MODEL = load_catalog().models["all-minilm-l6-v2"]
OTHER = load_catalog().models["mxbai-embed-large-v1"]
X86 = Cpu(physical_cores=2, features=("avx", "avx2", "f16c", "fma"))
ARM = Cpu(physical_cores=2, features=("neon", "dotprod"))


def test_files_of_one_source_and_kind_are_types_of_each_other() -> None:
    assert [each.name for each in file_types(MODEL)] == ["pypi-f16", "pypi-q8_0"]
    assert [each.name for each in file_types(OTHER)] == [OTHER.artifacts[0].name]


def test_the_wheel_is_fastest_with_bytes_on_x86() -> None:
    faster = fastest_file(MODEL, "F16", Family.EMBEDDED, X86)
    assert faster is not None
    assert faster.artifact.name == "pypi-q8_0"
    assert 1.4 < faster.gain < 1.8
    assert fastest_file(MODEL, "Q8_0", Family.EMBEDDED, X86) is None


@pytest.mark.parametrize(
    ("model", "quantisation", "cpu"),
    [
        (MODEL, "F16", ARM),  # not measured
        (MODEL, "F16", Cpu()),
        (MODEL, "Q4_K_M", X86),
        (MODEL, None, X86),
        (OTHER, "F16", X86),  # there is no other file to take
    ],
)
def test_what_was_not_measured_or_is_not_there_is_not_recommended(
    model: object, quantisation: str | None, cpu: Cpu
) -> None:
    assert fastest_file(model, quantisation, Family.EMBEDDED, cpu) is None  # type: ignore[arg-type]


def test_a_slow_type_is_told_with_what_to_do() -> None:
    reason = explain_file_type(MODEL, "F16", Family.EMBEDDED, X86)
    assert reason is not None
    assert reason.value == "F16"
    assert "pull all-minilm-l6-v2:pypi-q8_0" in reason.why
    assert "index again" in reason.why
    alone = explain_file_type(None, "F16", Family.EMBEDDED, X86)
    assert alone is not None
    assert "pull" not in alone.why
    best = explain_file_type(MODEL, "Q8_0", Family.EMBEDDED, X86)
    assert best is not None
    assert "fastest" in best.why
    assert explain_file_type(MODEL, "F16", Family.V1, X86) is None


def test_what_was_measured_here_counts_before_what_was_measured_elsewhere() -> None:
    fast, slow = MeasuredType("Q8_0", 1.31, 0.9983), MeasuredType("Q8_0", 0.9, 0.9983)
    reason = explain_file_type(MODEL, "F16", Family.EMBEDDED, X86, (fast,))
    assert reason is not None
    assert "1.31 times" in reason.why
    assert "0.9983" in reason.why
    assert "pull all-minilm-l6-v2:pypi-q8_0" in reason.why
    reason = explain_file_type(MODEL, "F16", Family.EMBEDDED, X86, (slow,))
    assert reason is not None
    assert "no other type" in reason.why
    reason = explain_file_type(None, "F16", Family.V1, ARM, (fast,))
    assert reason is not None
    assert "1.31 times" in reason.why
    assert "pull" not in reason.why


def test_a_plan_tells_it_on_the_processor() -> None:
    machine = replace(samples.LAPTOP_8GB, cpu=X86)
    (plan,) = plan_models((samples.minilm,), machine, samples.EMBEDDED_ONLY, {}, {})
    (reason,) = [each for each in plan.reasons if each.setting == "file type"]
    assert (reason.value, plan.quantisation) == ("F16", "F16")


def test_vectors_of_quantised_weights_do_not_depend_on_many_others() -> None:
    quantised = replace(
        samples.minilm, facts=samples.weights("m", replace(samples.MINILM, quantisation="Q8_0"), 9).facts
    )
    plans = [
        plan_models((spec,), samples.LAPTOP_8GB, samples.EMBEDDED_ONLY, {}, {})[0]
        for spec in (samples.minilm, quantised)
    ]
    assert [plan.settings.slots for plan in plans] == [16, 4]
