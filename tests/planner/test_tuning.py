"""What tuning tries, which measurement is worth a change, and how plans use it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.llamafile import Family
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.planner.tuning import (
    RunVerdict,
    TunedSettings,
    TuneLimits,
    Variant,
    is_allowed,
    judge_run,
    next_candidate,
    variant_of,
    vary_plan,
)
from tests.planner import samples

LIMITS = TuneLimits(Family.EMBEDDED, Role.EMBED, 4, 512, False, lambda variant: True)
DEFAULT = Variant(1, 4, 4, 512)
SPEEDS = st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e4)), min_size=0, max_size=12)


# --- judging -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("best", "candidate", "verdict"),
    [
        ([], [], RunVerdict.OPEN),
        ([10], [20], RunVerdict.OPEN),
        ([10, 10, 10], [20, 20, 20], RunVerdict.OPEN),
        ([10, 10], [5, 8], RunVerdict.NOT_BETTER),  # hopeless after two rounds
        ([10, 10, 10, 10], [12, 12, 12, 12], RunVerdict.BETTER),
        ([10, 5, 20, 10], [12, 6, 24, 12], RunVerdict.BETTER),  # a busy machine hits both
        ([10, 10, 10, 10], [10.2, 10.2, 10.2, 10.2], RunVerdict.OPEN),  # below the least gain
        ([10] * 9, [10.2] * 9, RunVerdict.NOT_BETTER),
        ([10, 10, 10, 10], [9, 9, 9, 9], RunVerdict.NOT_BETTER),
        ([10, 10, 10, 10], [8, 9, 16, 17], RunVerdict.OPEN),  # scatter hides the gain
        ([10] * 9, [7, 8, 9, 11, 12, 13, 14, 15, 16], RunVerdict.NOT_BETTER),
        ([10] * 5, [12, 12.1, 11.9, 12, 6], RunVerdict.BETTER),  # one outlier is forgiven
    ],
)
def test_verdicts(best: Sequence[float], candidate: Sequence[float], verdict: RunVerdict) -> None:
    assert judge_run(best, candidate).verdict is verdict


@given(SPEEDS)
def test_a_winner_is_faster_beyond_the_noise(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    judged = judge_run(ours, theirs)
    assert judged.rounds == len(pairs)
    if judged.verdict is RunVerdict.BETTER:
        assert judged.gain > 1.0 + judged.noise >= 1.03
        assert judge_run(theirs, ours).verdict is not RunVerdict.BETTER
    if len(pairs) >= 9:
        assert judged.verdict is not RunVerdict.OPEN


@given(st.lists(st.floats(1, 1e4), min_size=1, max_size=12), st.floats(0.1, 10))
def test_only_ratios_count(speeds: list[float], scale: float) -> None:
    judged = judge_run(speeds, [speed * scale for speed in speeds])
    assert math.isclose(judged.gain, scale, rel_tol=1e-9)


# --- candidates ----------------------------------------------------------------------------------


def everything_tried(start: Variant, limits: TuneLimits) -> list[Variant]:
    tried: list[Variant] = [start]
    while (candidate := next_candidate(start, frozenset(tried), limits)) is not None:
        tried.append(candidate)
        assert len(tried) < 40
    return tried[1:]


def test_what_an_encoder_tries_first() -> None:
    tried = everything_tried(DEFAULT, LIMITS)
    assert tried[0] == replace(DEFAULT, replicas=1, threads=4)
    assert replace(DEFAULT, replicas=2, threads=2) in tried
    assert replace(DEFAULT, flash_attention=False) in tried
    assert replace(DEFAULT, batch=1024) in tried
    assert replace(DEFAULT, slots=8) in tried
    assert not any(variant.cpu_only for variant in tried)
    assert not any(variant.batch == 256 for variant in tried)


def test_a_gpu_is_compared_with_the_processor_first() -> None:
    assert everything_tried(DEFAULT, replace(LIMITS, has_gpu=True))[0] == replace(DEFAULT, cpu_only=True)


def test_old_engines_are_told_only_what_they_know() -> None:
    limits = replace(LIMITS, family=Family.V1, least_batch=None)
    for variant in everything_tried(Variant(1, 4, 1), limits):
        assert (variant.slots, variant.batch, variant.flash_attention) == (1, None, None)


def test_generation_keeps_its_slots_and_one_engine() -> None:
    limits = replace(LIMITS, role=Role.GENERATE, least_batch=None)
    for variant in everything_tried(Variant(4, 1, 2), limits):
        assert (variant.replicas, variant.slots) == (1, 2)


def test_what_does_not_fit_is_not_tried() -> None:
    limits = replace(LIMITS, fits=lambda variant: variant.replicas == 1)
    assert all(variant.replicas == 1 for variant in everything_tried(DEFAULT, limits))


@given(
    st.builds(
        Variant,
        threads=st.integers(1, 64),
        replicas=st.integers(1, 16),
        slots=st.integers(1, 32),
        batch=st.none() | st.integers(1, 4096),
        flash_attention=st.sampled_from([None, True, False]),
    ),
    st.integers(1, 64),
    st.sampled_from(list(Family)),
    st.sampled_from([Role.EMBED, Role.GENERATE]),
)
def test_candidates_keep_to_the_limits(start: Variant, cores: int, family: Family, role: Role) -> None:
    limits = replace(LIMITS, cores=cores, family=family, role=role, least_batch=128)
    for variant in everything_tried(start, limits):
        assert is_allowed(variant, limits)
        assert variant.threads * variant.replicas <= cores
        assert variant.batch is None or variant.batch >= 128


def test_variants_say_what_they_are() -> None:
    variant = Variant(2, 3, 4, 512, False, True)
    assert variant.describe() == "3 x 2 threads, 4 slots, batch 512, flash attention off, cpu"
    assert Variant(1, 1, 1).describe() == "1 x 1 threads, 1 slots"


# --- use -----------------------------------------------------------------------------------------


def planned(tuned: TunedSettings, wish: ModelConfig | None = None, beside: int = 0) -> Plan:
    others = (samples.qwen, samples.llama_1b)[:beside]
    return plan_models(
        (samples.minilm, *others),
        samples.DESKTOP_32GB,
        samples.EMBEDDED_ONLY,
        {},
        {samples.minilm.name: wish or ModelConfig()},
        {samples.minilm.name: (tuned,)},
    )[0]


TUNED = TunedSettings(Family.EMBEDDED, Variant(1, 8, 8, 1024, False), 1.2)


def test_a_plan_uses_what_was_measured_and_says_so() -> None:
    plan = planned(TUNED)
    assert plan.tuned
    assert variant_of(plan) == TUNED.variant
    reasons = {reason.setting: reason.why for reason in plan.reasons}
    for setting in ("threads", "replicas", "slots", "batch", "flash_attention"):
        assert (
            reasons[setting] == "measured on this machine by tune: 1.20 times the speed of the default plan"
        )
    assert plan.command(1, None)[plan.command(1, None).index("-fa") + 1] == "off"
    assert "nothing that was tried is faster" in TunedSettings(Family.V1, DEFAULT, 1.0).describe()


def test_a_wish_wins_and_another_engine_is_not_meant() -> None:
    assert planned(TUNED, ModelConfig(threads=3, slots=2)).settings.threads == 3
    assert planned(TUNED, ModelConfig(threads=3, slots=2)).settings.slots == 2
    other = planned(replace(TUNED, family=Family.V10))
    assert not other.tuned
    assert variant_of(other) == Variant(2, 4, 16, 512)


def test_beside_other_models_the_cores_are_shared_as_ever() -> None:
    plan = planned(TUNED, beside=1)
    assert plan.replicas * plan.settings.threads <= 4
    assert plan.settings.slots == 8


def test_a_batch_never_gets_too_small_for_a_text() -> None:
    assert planned(replace(TUNED, variant=Variant(1, 8, 4, 64))).settings.batch == 512
    small = replace(samples.DESKTOP_32GB, memory=samples.RASPBERRY_1GB.memory)
    (plan,) = plan_models(
        (samples.minilm,),
        small,
        samples.EMBEDDED_ONLY,
        {},
        {},
        {samples.minilm.name: (replace(TUNED, variant=Variant(1, 8, 8, 8192)),)},
    )
    assert (plan.settings.batch or 0) >= plan.settings.context


def test_the_processor_may_be_faster_than_a_gpu() -> None:
    tuned = TunedSettings(Family.V10, Variant(2, 4, 4, 512, None, True), 1.5)
    toolbox = samples.with_runtimes(samples.RUNTIME)

    def plan_it(records: Mapping[str, Sequence[TunedSettings]]) -> Plan:
        (plan,) = plan_models((samples.minilm,), samples.GPU_24GB, toolbox, {}, {}, records)
        return plan

    plan = plan_it({samples.minilm.name: (tuned,)})
    assert plan.settings.gpu == "disable"
    assert next(r.why for r in plan.reasons if r.setting == "gpu") == tuned.describe()
    varied = vary_plan(plan_it({}), tuned.variant)
    assert (varied.settings.gpu, varied.replicas, varied.settings.threads) == ("disable", 4, 2)
