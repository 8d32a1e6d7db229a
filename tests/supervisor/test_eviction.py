"""Who goes when memory is needed: a table, and what must hold for any lodgers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.supervisor.eviction import EvictionMove, Lodger, Move, decide_room

OLD, NEW = Lodger("old", 10, 500.0), Lodger("new", 10, 5.0)
PINNED, BUSY = Lodger("pinned", 10, 900.0, pinned=True), Lodger("busy", 10, 0.0, busy=True)


@pytest.mark.parametrize(
    ("needed", "free", "lodgers", "verdict"),
    [
        (10, 10, [OLD], EvictionMove(Move.START)),
        (10, 9, [NEW, OLD], EvictionMove(Move.EVICT, "old")),
        (10, 9, [PINNED, NEW], EvictionMove(Move.EVICT, "new")),
        (10, 9, [BUSY, NEW], EvictionMove(Move.EVICT, "new")),
        (10, 9, [BUSY, PINNED], EvictionMove(Move.WAIT)),
        (10, 9, [PINNED], EvictionMove(Move.REFUSE)),
        (10, 9, [], EvictionMove(Move.REFUSE)),
        (30, 9, [OLD, NEW], EvictionMove(Move.REFUSE)),
        (29, 9, [NEW, OLD], EvictionMove(Move.EVICT, "old")),
        (10, -5, [OLD, NEW], EvictionMove(Move.EVICT, "old")),
    ],
)
def test_a_newcomer(needed: int, free: int, lodgers: list[Lodger], verdict: EvictionMove) -> None:
    assert decide_room(needed, free, lodgers) == verdict


lodgers_ = st.lists(
    st.builds(
        Lodger, st.uuids().map(str), st.integers(0, 100), st.floats(0, 1e6), st.booleans(), st.booleans()
    ),
    max_size=8,
)


@given(st.integers(1, 400), st.integers(-100, 400), lodgers_)
def test_neither_busy_nor_pinned_ones_go_and_it_ends(needed: int, free: int, lodgers: list[Lodger]) -> None:
    left = {each.name: each for each in lodgers}
    while (verdict := decide_room(needed, free, list(left.values()))).move is Move.EVICT:
        assert verdict.victim is not None
        victim = left.pop(verdict.victim)
        assert not victim.busy
        assert not victim.pinned
        others = [each for each in left.values() if not each.busy and not each.pinned]
        assert all(each.idle_seconds <= victim.idle_seconds for each in others)
        free += victim.taken
    if verdict.move is Move.START:
        assert free >= needed
    if verdict.move is Move.REFUSE:
        assert free + sum(each.taken for each in left.values() if not each.pinned) < needed
