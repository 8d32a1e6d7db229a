"""When a silent engine is asked, and when it counts as hung."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.supervisor.liveness import LivenessPolicy, Probe, decide_probe

POLICY = LivenessPolicy(silent_seconds=3, idle_seconds=30, busy_limit_seconds=300)


@pytest.mark.parametrize(
    ("silent_for", "probed_ago", "in_flight", "probe"),
    [
        (0, 999, 5, Probe.NOTHING),
        (2.9, 999, 5, Probe.NOTHING),
        (3, 999, 5, Probe.HEALTH),
        (10, 1, 5, Probe.NOTHING),
        (299, 4, 5, Probe.HEALTH),
        (300, 0, 1, Probe.HUNG),
        (29, 999, 0, Probe.NOTHING),
        (30, 999, 0, Probe.WORK),
        (999, 29, 0, Probe.NOTHING),
        (9999, 9999, 0, Probe.WORK),
    ],
)
def test_table(silent_for: float, probed_ago: float, in_flight: int, probe: Probe) -> None:
    assert decide_probe(POLICY, silent_for=silent_for, probed_ago=probed_ago, in_flight=in_flight) is probe


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.integers(0, 100))
def test_an_engine_that_talks_is_never_bothered(silent_for: float, probed_ago: float, in_flight: int) -> None:
    probe = decide_probe(POLICY, silent_for=silent_for, probed_ago=probed_ago, in_flight=in_flight)
    if silent_for < POLICY.silent_seconds:
        assert probe is Probe.NOTHING
    if in_flight == 0:
        assert probe is not Probe.HUNG
