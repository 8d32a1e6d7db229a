"""Who goes when memory is needed: a table, and what must hold for any loaded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.supervisor.eviction import EvictionCandidate, Move, decide_room

OLD, NEW = EvictionCandidate("old", 10, 500.0), EvictionCandidate("new", 10, 5.0)
PINNED, BUSY = (
    EvictionCandidate("pinned", 10, 900.0, pinned=True),
    EvictionCandidate("busy", 10, 0.0, busy=True),
)


@pytest.mark.parametrize(
    ("needed", "free", "loaded", "move"),
    [
        (10, 10, [OLD], Move.START),
        (10, 9, [NEW, OLD], OLD),
        (10, 9, [PINNED, NEW], NEW),
        (10, 9, [BUSY, NEW], NEW),
        (10, 9, [BUSY, PINNED], Move.WAIT),
        (10, 9, [PINNED], Move.REFUSE),
        (10, 9, [], Move.REFUSE),
        (30, 9, [OLD, NEW], Move.REFUSE),
        (29, 9, [NEW, OLD], OLD),
        (10, -5, [OLD, NEW], OLD),
    ],
)
def test_an_incoming_model(
    needed: int, free: int, loaded: list[EvictionCandidate], move: Move | EvictionCandidate
) -> None:
    assert decide_room(needed, free, loaded) == move


candidates = st.lists(
    st.builds(
        EvictionCandidate,
        st.uuids().map(str),
        st.integers(0, 100),
        st.floats(0, 1e6),
        st.booleans(),
        st.booleans(),
    ),
    max_size=8,
)


@given(st.integers(1, 400), st.integers(-100, 400), candidates)
def test_neither_busy_nor_pinned_ones_go_and_it_ends(
    needed: int, free: int, loaded: list[EvictionCandidate]
) -> None:
    left = {each.name: each for each in loaded}
    while isinstance(move := decide_room(needed, free, list(left.values())), EvictionCandidate):
        evicted = left.pop(move.name)
        assert not evicted.busy
        assert not evicted.pinned
        others = [each for each in left.values() if not each.busy and not each.pinned]
        assert all(each.idle_seconds <= evicted.idle_seconds for each in others)
        free += evicted.taken
    if move is Move.START:
        assert free >= needed
    if move is Move.REFUSE:
        assert free + sum(each.taken for each in left.values() if not each.pinned) < needed
