"""Sets of byte ranges: against a model that keeps every byte in a set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.store import Range
from llamafile_mgr.store.ranges import RangeSet

SIZE = 60
RANGES = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: tuple(sorted(pair))))


@given(RANGES)
def test_a_range_set_is_the_set_of_its_bytes(ranges: list[Range]) -> None:
    model: set[int] = set()
    found = RangeSet()
    for start, end in ranges:
        new = set(range(start, end))
        assert found.add(start, end) == len(new - model)
        model |= new
        assert found.total == len(model)
    held = list(found)
    assert [byte for start, end in held for byte in range(start, end)] == sorted(model)
    assert all(end < held[index + 1][0] for index, (_, end) in enumerate(held[:-1]))
    missing = [byte for start, end in found.missing(SIZE) for byte in range(start, end)]
    assert missing == sorted(set(range(SIZE)) - model)
    prefix = next(byte for byte in range(SIZE + 1) if byte not in model)
    assert found.prefix == prefix


@given(RANGES, st.integers(0, SIZE), st.integers(0, SIZE))
def test_covers(ranges: list[Range], start: int, length: int) -> None:
    found = RangeSet(ranges)
    model = {byte for first, end in ranges for byte in range(first, end)}
    assert found.covers(start, start + length) == (set(range(start, start + length)) <= model)


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (4, 3)])
def test_what_is_no_range(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="no range"):
        RangeSet().add(start, end)
