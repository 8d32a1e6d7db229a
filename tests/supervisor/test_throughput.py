"""The speed of an engine against its own best, with times that the test makes up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.supervisor.throughput import Job, Kind, SpeedPolicy, SpeedWatch

POLICY = SpeedPolicy(window_seconds=10.0)


def work(watch: SpeedWatch, now: float, *, size: int, rate: float, seconds: float) -> float:
    """Do work of ``size`` one after another at ``rate`` for so long; return the time then."""
    end = now + seconds
    while now < end:
        job = watch.begin(size, now)
        now += size / rate
        watch.end(job, now, answered=True)
    return now


@pytest.mark.parametrize(
    ("rates", "slow", "share"),
    [
        ([100], False, None),
        ([100, 100], False, 1.0),
        ([100, 60], False, 0.6),
        ([100, 40], True, 0.4),
        ([100, 40, 60], True, 0.6),
        ([100, 40, 80], False, 0.8),
        ([50, 100, 75], False, 0.8),
        ([50, 100, 25], True, 0.35),
    ],
)
def test_half_of_the_best_is_slow(rates: list[float], slow: bool, share: float | None) -> None:
    watch, now = SpeedWatch(POLICY, {}), 0.0
    for rate in rates:
        now = work(watch, now, size=20, rate=rate, seconds=10.5)
    assert watch.slow is slow
    assert watch.share == (None if share is None else pytest.approx(share, abs=0.06))


def test_each_change_is_told_once() -> None:
    watch, now, told = SpeedWatch(POLICY, {}), 0.0, []
    for rate in (100, 100, 30, 30, 100, 100):
        for _ in range(int(10.5 * rate / 20)):
            job = watch.begin(20, now)
            now += 20 / rate
            if watch.end(job, now, answered=True):
                told.append((rate, watch.slow))
    assert told == [(30, True), (100, False)]


def test_another_kind_of_work_is_not_compared() -> None:
    watch = SpeedWatch(POLICY, {})
    now = work(watch, 0.0, size=500, rate=3000, seconds=25)
    now = work(watch, now, size=4, rate=400, seconds=25)
    assert not watch.slow
    assert watch.share == pytest.approx(1.0, abs=0.05)


def test_replicas_share_their_best() -> None:
    best: dict[Kind, float] = {}
    fast, slow = SpeedWatch(POLICY, best), SpeedWatch(POLICY, best)
    work(fast, 0.0, size=20, rate=100, seconds=10.5)
    work(slow, 0.0, size=20, rate=30, seconds=10.5)
    assert (fast.slow, slow.slow) == (False, True)


def test_idle_time_is_no_slowness() -> None:
    watch, now = SpeedWatch(POLICY, {}), 0.0
    for _ in range(400):
        now = work(watch, now, size=20, rate=100, seconds=0.1) + 60
    assert watch.share == pytest.approx(1.0)


def test_what_runs_together_shares_the_time_by_its_size() -> None:
    best: dict[Kind, float] = {}
    watch, now = SpeedWatch(POLICY, best), 0.0
    for _ in range(200):
        # 100 tokens a second, given to both alike: the small job is done first.
        large, small = watch.begin(90, now), watch.begin(10, now)
        watch.end(small, now + 1.0, answered=True)
        watch.end(large, now + 1.0, answered=True)
        now += 1.0
    assert all(rate == pytest.approx(100) for rate in best.values())
    assert len(best) == 2
    assert watch.share == pytest.approx(1.0)


def test_work_that_was_not_answered_counts_nothing() -> None:
    watch = SpeedWatch(POLICY, {})
    now = work(watch, 0.0, size=20, rate=100, seconds=10.5)
    for _ in range(10):
        job = watch.begin(20, now)
        now += 30
        assert not watch.end(job, now, answered=False)
        assert not watch.end(job, now, answered=True)  # nobody ends work twice
    assert watch.share is None


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 5000), st.floats(0, 100), st.booleans()), max_size=200)
)
def test_any_order_of_work_gives_a_share(steps: list[tuple[bool, int, float, bool]]) -> None:
    watch, now, jobs = SpeedWatch(POLICY, {}), 0.0, list[Job]()
    for starts, size, seconds, answered in steps:
        now += seconds
        if starts or not jobs:
            jobs.append(watch.begin(size, now))
        else:
            watch.end(jobs.pop(size % len(jobs)), now, answered=answered)
    assert watch.share is None or watch.share > 0
    assert watch.slow is (watch.share is not None and watch.slow)
