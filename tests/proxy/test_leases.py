"""When a service for its users is over; a clock of numbers, no process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.proxy.leases import LeaseTable


def test_it_waits_for_a_first_user_and_not_forever() -> None:
    table = LeaseTable(100.0, patience_seconds=10.0)
    assert table.left(109.9) != 0
    assert table.left(110.0) == 0


def test_it_ends_with_its_last_user_and_not_before() -> None:
    table = LeaseTable(0.0, patience_seconds=10.0)
    first, second = table.add(1.0), table.add(2.0)
    table.drop(first, 3.0, 0.0)
    assert table.left(1000.0) != 0
    table.drop(second, 4.0, 0.0)
    assert table.left(4.0) == 0


def test_the_longest_time_to_keep_it_counts() -> None:
    table = LeaseTable(0.0)
    first, second = table.add(1.0), table.add(1.0)
    table.drop(first, 2.0, 60.0)
    table.drop(second, 3.0, 5.0)
    assert table.left(61.9) != 0
    assert table.left(62.0) == 0


def test_a_lease_ends_once() -> None:
    table = LeaseTable(0.0)
    number = table.add(0.0)
    table.drop(number, 1.0, 0.0)
    table.drop(number, 2.0, 500.0)
    assert table.left(3.0) == 0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5), st.floats(0, 20)), max_size=30))
def test_it_is_never_over_while_held_and_always_in_the_end(steps: list[tuple[bool, float, float]]) -> None:
    table, held, now, latest = LeaseTable(0.0), [], 0.0, 30.0
    for add, passed, keep in steps:
        now += passed
        if add:
            held.append(table.add(now))
        elif held:
            table.drop(held.pop(), now, keep)
        latest = max(latest, now + keep)
        assert len(table) == len(held)
        assert not held or table.left(now + 10**6) is None
    for number in held:
        table.drop(number, now, 0.0)
    assert table.left(latest) == 0
