"""The speed of an engine, alone and against its own best, with times that the test makes up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.supervisor.meters import EngineMeter, Kind, MeteredWork, SpeedPolicy, retry_seconds

POLICY = SpeedPolicy(window_seconds=10.0)


def work(watch: EngineMeter, now: float, *, size: int, rate: float, seconds: float) -> float:
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
    watch, now = EngineMeter(POLICY, {}), 0.0
    for rate in rates:
        now = work(watch, now, size=20, rate=rate, seconds=10.5)
    assert watch.slow is slow
    assert watch.share == (None if share is None else pytest.approx(share, abs=0.06))


def test_each_change_is_told_once() -> None:
    watch, now, told = EngineMeter(POLICY, {}), 0.0, []
    for rate in (100, 100, 30, 30, 100, 100):
        for _ in range(int(10.5 * rate / 20)):
            job = watch.begin(20, now)
            now += 20 / rate
            if watch.end(job, now, answered=True):
                told.append((rate, watch.slow))
    assert told == [(30, True), (100, False)]


def test_another_kind_of_work_is_not_compared() -> None:
    watch = EngineMeter(POLICY, {})
    now = work(watch, 0.0, size=500, rate=3000, seconds=25)
    now = work(watch, now, size=4, rate=400, seconds=25)
    assert not watch.slow
    assert watch.share == pytest.approx(1.0, abs=0.05)


def test_replicas_share_their_best() -> None:
    best: dict[Kind, float] = {}
    fast, slow = EngineMeter(POLICY, best), EngineMeter(POLICY, best)
    work(fast, 0.0, size=20, rate=100, seconds=10.5)
    work(slow, 0.0, size=20, rate=30, seconds=10.5)
    assert (fast.slow, slow.slow) == (False, True)


def test_idle_time_is_no_slowness() -> None:
    watch, now = EngineMeter(POLICY, {}), 0.0
    for _ in range(400):
        now = work(watch, now, size=20, rate=100, seconds=0.1) + 60
    assert watch.share == pytest.approx(1.0)


def test_what_runs_together_shares_the_time_by_its_size() -> None:
    best: dict[Kind, float] = {}
    watch, now = EngineMeter(POLICY, best), 0.0
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
    watch = EngineMeter(POLICY, {})
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
    watch, now = EngineMeter(POLICY, {}), 0.0
    jobs: list[MeteredWork] = []
    for starts, size, seconds, answered in steps:
        now += seconds
        if starts or not jobs:
            jobs.append(watch.begin(size, now))
        else:
            watch.end(jobs.pop(size % len(jobs)), now, answered=answered)
    assert watch.share is None or watch.share > 0
    assert watch.slow is (watch.share is not None and watch.slow)


def measure(calls: int, seconds: float, size: int, *, start: float = 100.0) -> tuple[EngineMeter, float]:
    """Return a meter after calls one after the other, and the time of its end."""
    meter, now = EngineMeter(POLICY, None), start
    for _ in range(calls):
        job = meter.begin(size, now)
        now += seconds
        assert not meter.end(job, now, answered=True)
        now += 1.0  # idle time counts for nothing
    return meter, now


def test_a_rate_is_work_per_busy_second() -> None:
    meter, now = measure(20, 0.5, 100)
    assert meter.rate(now) == pytest.approx(200.0, rel=0.02)
    assert meter.rough_rate() == meter.rate(now)


def test_few_answers_and_old_ones_are_but_a_guess() -> None:
    meter, now = measure(7, 0.5, 100)
    assert meter.rate(now) is None
    assert meter.rough_rate() == pytest.approx(200.0, rel=0.02)
    meter, now = measure(8, 0.5, 100)
    assert meter.rate(now) is not None
    assert meter.rate(now + 60) is None
    job = meter.begin(100, now + 60)
    assert meter.rough_rate() == pytest.approx(200.0, rel=0.02)
    meter.end(job, now + 61, answered=True)
    assert meter.rate(now + 61) is None  # it has to show itself anew
    assert meter.rough_rate() == pytest.approx(100.0)


def test_calls_at_once_share_the_time() -> None:
    meter = EngineMeter(POLICY, None)
    jobs = [meter.begin(100, 0.0) for _ in range(10)]
    for job in jobs:
        meter.end(job, 1.0, answered=True)
    assert meter.rate(1.0) == pytest.approx(1000.0)


def test_calls_that_were_not_answered_bring_a_rate_down() -> None:
    meter, now = measure(10, 0.5, 100)
    before = meter.rate(now)
    meter.end(meter.begin(100, now), now + 5, answered=False)
    after = meter.rate(now + 5)
    assert before is not None
    assert after is not None
    assert after < before / 1.5


def test_a_change_of_speed_is_followed() -> None:
    meter, now = measure(100, 0.5, 100)
    for _ in range(100):
        job = meter.begin(100, now)
        now += 1.0
        meter.end(job, now, answered=True)
    assert meter.rate(now) == pytest.approx(100.0, rel=0.1)


def test_who_comes_too_early_is_told_by_busy_time() -> None:
    """Two one-word calls 25 s apart say that an engine is fast, not that it does a word in 25 seconds."""
    meter = EngineMeter(POLICY, None)
    for now in (100.0, 125.0):
        meter.end(meter.begin(4, now), now + 0.005, answered=True)
    assert meter.rough_rate() == pytest.approx(800.0)
    assert retry_seconds(1000, meter.rough_rate()) == 1
    assert retry_seconds(16_000, meter.rough_rate()) == 10
    assert retry_seconds(10**9, meter.rough_rate()) == 120
    assert retry_seconds(10**9, None) == 1


def test_guessed_sizes_make_no_engine_slow() -> None:
    meter, now = EngineMeter(POLICY, None), 0.0
    for rate in (100, 10):
        now = work(meter, now, size=20, rate=rate, seconds=20)
    assert (meter.share, meter.slow) == (None, False)
