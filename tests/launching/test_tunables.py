"""What variants of a plan may take while they are measured: as much as a plan of theirs would say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.toolbox import Toolbox
from llamafile_mgr.launching.tunables import limits_for
from llamafile_mgr.machine import Memory
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.tuning import variant_of
from tests.planner import samples

GB = samples.GB
COPIED = replace(samples.MISTRAL, quantisation="Q4_K_M", tensor_types=(("Q4_K", 3 * GB), ("Q6_K", GB)))


@pytest.mark.parametrize(
    ("spec", "toolbox"),
    [
        (samples.weights("copied", COPIED, 4 * GB, Role.GENERATE), samples.EMBEDDED_ONLY),
        (samples.mistral, samples.with_runtimes(samples.RUNTIME)),  # no flash attention on a processor
        (samples.minilm, samples.EMBEDDED_ONLY),
    ],
)
def test_the_variant_that_a_plan_is_takes_what_the_plan_says(spec: ModelSpec, toolbox: Toolbox) -> None:
    (plan,) = plan_models((spec,), samples.DESKTOP_32GB, toolbox, {}, {})
    assert plan.memory is not None
    enough = 2 * plan.memory.joint
    for free, fits in ((enough, True), (enough - 1, False)):
        machine = replace(samples.DESKTOP_32GB, memory=Memory(total=64 * GB, available=free))
        limits = limits_for(plan, spec, machine)
        assert limits.fits is not None
        assert limits.fits(variant_of(plan)) is fits
