"""Where the next call goes, and how rates are measured: tables and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.supervisor.routing import Load, MemberRate, choose_member


@pytest.mark.parametrize(
    ("loads", "chosen"),
    [
        ([(0, None)], 0),
        ([(0, None), (0, None)], 0),
        ([(1, None), (0, None)], 1),
        ([(0, 100.0), (0, 1000.0)], 1),
        ([(0, 100.0), (8, 1000.0)], 1),
        ([(0, 100.0), (10, 1000.0)], 0),
        ([(2, 100.0), (29, 1000.0)], 0),
        ([(2, 100.0), (28, 1000.0)], 1),
        # Unknown counts as the others' average: it gets calls, and so a rate.
        ([(0, 100.0), (0, None)], 0),
        ([(1, 100.0), (0, None)], 1),
        ([(1, 100.0), (1, 300.0), (0, None)], 2),
        ([(0, 0.0), (0, 100.0)], 0),
    ],
)
def test_the_shortest_wait_is_chosen(loads: list[tuple[int, float | None]], chosen: int) -> None:
    assert choose_member([Load(in_flight, rate) for in_flight, rate in loads]) == chosen


RATES = st.one_of(st.none(), st.floats(0.01, 1e6))


@given(st.lists(st.tuples(st.integers(0, 100), RATES), min_size=1, max_size=8))
def test_nobody_is_passed_over_who_is_faster_and_freer(loads: list[tuple[int, float | None]]) -> None:
    at = choose_member([Load(in_flight, rate) for in_flight, rate in loads])
    in_flight, rate = loads[at]
    for others, other_rate in loads:
        if rate is not None and other_rate is not None and others < in_flight:
            assert other_rate <= rate


@given(st.lists(st.floats(0.5, 2000.0), min_size=2, max_size=5))
def test_work_spreads_in_proportion_to_the_rates(rates: list[float]) -> None:
    """Calls that only pile up are shared so that all would end at about the same time."""
    in_flight = [0] * len(rates)
    for _ in range(200):
        loads = [Load(count, rate) for count, rate in zip(in_flight, rates, strict=True)]
        in_flight[choose_member(loads)] += 1
    longest = max(count / rate for count, rate in zip(in_flight, rates, strict=True))
    for count, rate in zip(in_flight, rates, strict=True):
        assert (count + 1) / rate >= longest * (1 - 1e-9)


def measure(calls: int, seconds: float, work: float, *, start: float = 100.0) -> tuple[MemberRate, float]:
    """Return a meter after calls one after the other, and the time of its end."""
    meter, now = MemberRate(), start
    for _ in range(calls):
        meter.begin(now)
        now += seconds
        meter.end(work, now)
        now += 1.0  # idle time counts for nothing
    return meter, now


def test_a_rate_is_work_per_busy_second() -> None:
    meter, now = measure(20, 0.5, 100.0)
    assert meter.rate(now) == pytest.approx(200.0, rel=0.02)


def test_few_answers_and_old_ones_say_nothing() -> None:
    meter, now = measure(7, 0.5, 100.0)
    assert meter.rate(now) is None
    meter, now = measure(8, 0.5, 100.0)
    assert meter.rate(now) is not None
    assert meter.rate(now + 60) is None
    meter.begin(now + 60)
    meter.end(100.0, now + 61)
    assert meter.rate(now + 61) is None  # it has to show itself anew


def test_calls_at_once_share_the_time() -> None:
    meter = MemberRate()
    for _ in range(10):
        meter.begin(0.0)
    for _ in range(10):
        meter.end(100.0, 1.0)
    assert meter.rate(1.0) == pytest.approx(1000.0)


def test_calls_that_were_not_answered_bring_a_rate_down() -> None:
    meter, now = measure(10, 0.5, 100.0)
    before = meter.rate(now)
    meter.begin(now)
    meter.end(0, now + 5)
    after = meter.rate(now + 5)
    assert before is not None
    assert after is not None
    assert after < before / 1.5


def test_a_change_of_speed_is_followed() -> None:
    meter, now = measure(100, 0.5, 100.0)
    for _ in range(100):
        meter.begin(now)
        now += 1.0
        meter.end(100.0, now)
    assert meter.rate(now) == pytest.approx(100.0, rel=0.1)
