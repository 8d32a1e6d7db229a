"""Sets of byte ranges, half open: what of a file is here and what is missing."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator

#: ``(start, end)``: bytes from ``start`` up to but not including ``end``.
Range = tuple[int, int]


class RangeSet:
    """Disjoint, ordered, never adjacent ranges."""

    __slots__ = ("_ends", "_starts", "_total")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._total = 0
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._starts, self._ends, strict=True)

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    @property
    def total(self) -> int:
        """Return the number of bytes in the set."""
        return self._total

    @property
    def prefix(self) -> int:
        """Return how many bytes from the start of the file on are here without a gap."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    def add(self, start: int, end: int) -> int:
        """Add ``[start, end)`` and return how many of its bytes are new.

        Raises:
            ValueError: the range is negative or runs backwards.
        """
        if not 0 <= start <= end:
            raise ValueError(f"no range: {start}-{end}")
        if start == end:
            return 0
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        held = sum(self._ends[i] - self._starts[i] for i in range(first, last))
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        fresh = end - start - held
        self._total += fresh
        return fresh

    def missing(self, size: int) -> list[Range]:
        """Return the gaps of a file of ``size`` bytes, in order."""
        gaps: list[Range] = []
        position = 0
        for start, end in self:
            if start >= size:
                break
            if start > position:
                gaps.append((position, start))
            position = end
        if position < size:
            gaps.append((position, size))
        return gaps

    def covers(self, start: int, end: int) -> bool:
        """Tell whether every byte of ``[start, end)`` is in the set."""
        index = bisect.bisect_right(self._starts, start) - 1
        return start == end or (index >= 0 and self._ends[index] >= end)
