"""When a service for its users is over; a clock of numbers, no process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.proxy.leases import LeaseBook


def test_it_waits_for_a_first_user_and_not_forever() -> None:
    book = LeaseBook(100.0, patience_seconds=10.0)
    assert book.left(109.9) != 0
    assert book.left(110.0) == 0


def test_it_ends_with_its_last_user_and_not_before() -> None:
    book = LeaseBook(0.0, patience_seconds=10.0)
    first, second = book.add(1.0), book.add(2.0)
    book.drop(first, 3.0, 0.0)
    assert book.left(1000.0) != 0
    book.drop(second, 4.0, 0.0)
    assert book.left(4.0) == 0


def test_the_longest_wish_to_keep_it_counts() -> None:
    book = LeaseBook(0.0)
    first, second = book.add(1.0), book.add(1.0)
    book.drop(first, 2.0, 60.0)
    book.drop(second, 3.0, 5.0)
    assert book.left(61.9) != 0
    assert book.left(62.0) == 0


def test_a_lease_ends_once() -> None:
    book = LeaseBook(0.0)
    number = book.add(0.0)
    book.drop(number, 1.0, 0.0)
    book.drop(number, 2.0, 500.0)
    assert book.left(3.0) == 0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5), st.floats(0, 20)), max_size=30))
def test_it_is_never_over_while_held_and_always_in_the_end(steps: list[tuple[bool, float, float]]) -> None:
    book, held, now, latest = LeaseBook(0.0), [], 0.0, 30.0
    for add, passed, keep in steps:
        now += passed
        if add:
            held.append(book.add(now))
        elif held:
            book.drop(held.pop(), now, keep)
        latest = max(latest, now + keep)
        assert len(book) == len(held)
        assert not held or book.left(now + 10**6) is None
    for number in held:
        book.drop(number, now, 0.0)
    assert book.left(latest) == 0
