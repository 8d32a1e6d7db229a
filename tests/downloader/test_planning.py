"""Ranges, pacing and retries: the decisions of a download, without a network."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.downloader.pacing import MOST_JOBS, JobControl, RateLimit, StallMeter
from llamafile_mgr.downloader.range_planning import MEBIBYTE, RangePlanner, Segment, segment_bytes
from llamafile_mgr.downloader.retrying import RetryPolicy, next_wait, parse_retry_after
from llamafile_mgr.store.ranges import RangeSet

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, 1),
        (5, 5),
        (8 * MEBIBYTE, 8 * MEBIBYTE),
        (8 * MEBIBYTE + 1, 4 * MEBIBYTE),
        (1024 * MEBIBYTE, 8 * MEBIBYTE),
        (14 * 1024 * MEBIBYTE, 32 * MEBIBYTE),
    ],
)
def test_how_much_one_request_asks_for(size: int, expected: int) -> None:
    assert segment_bytes(size) == expected


@given(
    st.integers(0, 200),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)).map(lambda p: (min(p), max(p)))),
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=200),
)
def test_every_byte_is_fetched_once_whatever_fails(
    size: int, have: list[tuple[int, int]], segment: int, steps: list[tuple[int, int]]
) -> None:
    done = RangeSet((start, min(end, size)) for start, end in have if start < size)
    planner = RangePlanner(done.missing(size), segment)
    out: list[Segment] = []

    def write(one: Segment, count: int) -> None:
        end = min(one.position + count, one.end)
        assert done.add(one.position, end) == end - one.position, "a byte was fetched twice"
        one.position = end

    for action, count in steps:
        if action == 0 and (claimed := planner.claim()) is not None:
            assert not any(claimed.start < o.end and o.start < claimed.end for o in out)
            out.append(claimed)
        elif action == 1 and out:
            write(out[count % len(out)], count)
        elif action >= 2 and out:
            planner.release(out.pop(count % len(out)))
    for one in out:
        planner.release(one)
    while (claimed := planner.claim()) is not None:
        write(claimed, segment)
        planner.release(claimed)
    assert planner.finished
    assert done.missing(size) == []


def test_pieces_come_in_order_and_what_is_left_comes_again() -> None:
    planner = RangePlanner([(0, 25), (40, 45)], 10)
    first, second = planner.claim(), planner.claim()
    assert first is not None
    assert second is not None
    assert (first.start, first.end, second.start) == (0, 10, 10)
    first.position = 4
    planner.release(first)
    again = planner.claim()
    assert again is not None
    assert (again.start, again.end) == (4, 10)
    assert planner.waiting == 2
    assert not planner.finished


def test_connections_double_while_that_pays_and_fall_back_when_not() -> None:
    jobs = JobControl()
    assert [jobs.observe(rate) for rate in (100.0, 190.0, 320.0)] == [8, 16, 16]
    jobs = JobControl()
    assert [jobs.observe(rate) for rate in (100.0, 104.0, 104.0)] == [8, 4, 4]


def test_intervals_in_which_not_all_worked_tell_nothing() -> None:
    jobs = JobControl()
    assert jobs.observe(100.0, saturated=False) == jobs.observe(900.0, saturated=False) == 4


def test_a_fixed_number_stays_until_the_server_objects() -> None:
    jobs = JobControl(3)
    assert [jobs.observe(rate) for rate in (1.0, 100.0)] == [3, 3]
    assert [jobs.busy() for _ in range(3)] == [1, 1, 1]


def test_a_busy_server_is_not_tried_with_more() -> None:
    jobs = JobControl()
    jobs.observe(100.0)
    assert jobs.busy() == 4
    assert max(jobs.observe(100.0 * 2**n) for n in range(10)) == 4


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e12)), max_size=200))
def test_the_number_of_connections_stays_in_its_bounds(rates: list[float | None]) -> None:
    jobs = JobControl()
    for rate in rates:
        target = jobs.busy() if rate is None else jobs.observe(rate)
        assert 1 <= target <= MOST_JOBS


@given(st.integers(1, 10**6), st.lists(st.integers(1, 10**5), min_size=1, max_size=50))
def test_a_limit_is_kept(rate: int, chunks: list[int]) -> None:
    limit, now = RateLimit(rate, 0.0), 0.0
    for chunk in chunks:
        now += limit.delay(chunk, now)
    assert now == pytest.approx(sum(chunks) / rate)


def test_no_limit_never_waits() -> None:
    assert RateLimit(0, 0.0).delay(10**9, 0.0) == 0.0


def test_a_connection_is_slow_by_the_bytes_of_a_whole_window() -> None:
    meter = StallMeter(1000, 2.0)
    assert [meter.feed(0.5, 600) for _ in range(4)] == [False] * 4
    assert [meter.feed(0.5, 400) for _ in range(4)] == [False, False, False, True]
    assert not meter.feed(0.0, 0)


POLICY = RetryPolicy(retries=3, first_seconds=0.5)


@pytest.mark.parametrize(
    ("failures", "chance", "retry_after", "wait"),
    [
        (1, 0.0, None, 0.0),
        (1, 1.0, None, 0.5),
        (2, 1.0, None, 1.0),
        (3, 0.5, None, 1.0),
        (4, 0.5, None, None),
        (1, 0.5, 7.0, 7.0),
        (1, 0.5, 301.0, None),
        (1, 1.0, 0.0, 0.5),
    ],
)
def test_waits(failures: int, chance: float, retry_after: float | None, wait: float | None) -> None:
    assert next_wait(POLICY, failures, chance, retry_after) == wait


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_waits_are_bounded(failures: int, chance: float) -> None:
    wait = next_wait(RetryPolicy(100, 0.5), failures, chance)
    assert wait is not None
    assert 0.0 <= wait <= 30.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("12", 12.0),
        (" 0 ", 0.0),
        ("Fri, 02 Jan 2026 03:04:15 GMT", 10.0),
        ("Fri, 02 Jan 2015 03:04:15 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds
