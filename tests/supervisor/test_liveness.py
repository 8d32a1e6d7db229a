"""When a silent engine is asked, and when it counts as hung."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.supervisor.liveness import (
    Effort,
    LivenessPolicy,
    Probe,
    Pulse,
    Signs,
    decide_probe,
    longest_silence,
    works,
)

POLICY = LivenessPolicy(silent_seconds=3, idle_seconds=30, health_deadline_seconds=5, busy_limit_seconds=300)
BUSY = Signs(silent=0, still=0, probed=999, allowed=300, in_flight=1)


def signs(silent: float, still: float, probed: float = 999, in_flight: int = 1) -> Signs:
    return replace(BUSY, silent=silent, still=still, probed=probed, in_flight=in_flight)


@pytest.mark.parametrize(
    ("seen", "probe"),
    [
        (signs(0, 0), Probe.NOTHING),
        (signs(2.9, 2.9), Probe.NOTHING),
        (signs(3, 3), Probe.HEALTH),
        (signs(299, 1), Probe.NOTHING),
        (signs(10, 10, probed=1), Probe.NOTHING),
        (signs(299, 4, probed=4), Probe.HEALTH),
        (signs(300, 0, probed=0), Probe.HUNG),
        (signs(29, 29, in_flight=0), Probe.NOTHING),
        (signs(30, 30, in_flight=0), Probe.WORK),
        (signs(999, 999, probed=29, in_flight=0), Probe.NOTHING),
        (signs(9999, 9999, probed=9999, in_flight=0), Probe.WORK),
    ],
)
def test_an_engine_whose_health_route_answers_meanwhile(seen: Signs, probe: Probe) -> None:
    assert decide_probe(POLICY, seen, Probe.HEALTH) is probe


@pytest.mark.parametrize(
    ("seen", "probe"),
    [
        (signs(133, 1), Probe.NOTHING),
        (signs(7.9, 7.9), Probe.NOTHING),
        (signs(8, 8), Probe.HUNG),
        (signs(300, 1), Probe.HUNG),
        (replace(signs(300, 1), allowed=3000), Probe.NOTHING),
        (replace(signs(3000, 1), allowed=3000), Probe.HUNG),
        (signs(30, 30, in_flight=0), Probe.WORK),
    ],
)
def test_one_whose_health_route_waits_behind_the_work(seen: Signs, probe: Probe) -> None:
    assert decide_probe(POLICY, seen, Probe.HUNG) is probe


@pytest.mark.parametrize(("seen", "probe"), [(signs(299, 299), Probe.NOTHING), (signs(300, 0), Probe.HUNG)])
def test_one_of_which_nothing_can_be_seen(seen: Signs, probe: Probe) -> None:
    assert decide_probe(POLICY, seen, Probe.NOTHING) is probe


@given(
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.integers(0, 100),
    st.sampled_from([Probe.HEALTH, Probe.HUNG, Probe.NOTHING]),
)
def test_an_engine_that_shows_work_within_its_time_is_never_bothered(
    silent: float, still: float, probed: float, in_flight: int, when_still: Probe
) -> None:
    seen = signs(max(silent, still), still, probed, in_flight)
    probe = decide_probe(POLICY, seen, when_still)
    if works(POLICY, seen) and in_flight:
        assert probe is Probe.NOTHING
    if in_flight == 0:
        assert probe is not Probe.HUNG


def test_the_silence_that_work_allows_grows_with_it_and_with_the_weights() -> None:
    assert longest_silence(POLICY, 0, 10**12) == 300
    # What was measured took 133 seconds, and a machine twenty times slower is not given up.
    assert longest_silence(POLICY, 1_502, 1_700_000_000) > 20 * 100
    assert longest_silence(POLICY, 512, 46_000_000) == 300


def test_a_pulse_is_felt_in_processor_time_or_bytes_read() -> None:
    pulse = Pulse()
    pulse.feel(Effort(100.0, 7), 1000.0, 3.0)
    assert pulse.at == float("-inf")  # nothing to compare with
    pulse.feel(Effort(100.01, 7), 1001.0, 3.0)
    assert pulse.at == float("-inf")  # one per cent is what an idle server takes
    pulse.feel(Effort(100.06, 7), 1002.0, 3.0)
    assert pulse.at == 1002.0
    pulse.feel(Effort(100.06, 8), 1003.0, 3.0)
    assert pulse.at == 1003.0


def test_a_pulse_is_not_thinned_by_the_time_before_the_silence() -> None:
    pulse = Pulse()
    pulse.feel(Effort(1.0, 0), 0.0, 3.0)
    pulse.feel(Effort(1.5, 0), 3600.0, 3.0)  # too long ago to say anything of now
    assert pulse.at == float("-inf")
    pulse.feel(Effort(2.0, 0), 3601.0, 3.0)
    assert pulse.at == 3601.0


def test_a_pulse_is_lost_with_a_descendant_that_ended() -> None:
    pulse = Pulse()
    for now, seconds in [(0.0, 50.0), (1.0, 51.0), (2.0, 3.0), (3.0, 3.0)]:
        pulse.feel(Effort(seconds, 0), now, 1.5)
    assert pulse.at == 1.0
    pulse.feel(Effort(3.5, 0), 4.0, 1.5)
    assert pulse.at == 4.0
