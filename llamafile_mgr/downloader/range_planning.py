"""Which bytes to ask for next. Pure: no sockets, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from llamafile_mgr.store import Range

MEBIBYTE = 1024 * 1024
#: A file below this arrives in one request: more would cost more round trips than they save.
SMALL_BYTES = 8 * MEBIBYTE


def segment_bytes(size: int) -> int:
    """Return how much one request asks for: small enough to spread, large enough to amortise it."""
    if size <= SMALL_BYTES:
        return max(size, 1)
    return min(max(size // 128, 4 * MEBIBYTE), 32 * MEBIBYTE)


@dataclass(slots=True)
class Segment:
    """What one request is for. ``position`` is how far its bytes have been written."""

    start: int
    end: int
    position: int

    @property
    def left(self) -> int:
        """Return how many bytes are still to come."""
        return self.end - self.position


class RangePlanner:
    """Hands out the gaps of a file, in order, so that its beginning is complete as early as possible.

    Every byte is at any time written, in one segment, or waiting: never in two segments at once.
    """

    def __init__(self, gaps: Iterable[Range], segment: int) -> None:
        self._waiting: list[Range] = []
        self._segment = segment
        self._out: dict[int, Segment] = {}
        for start, end in gaps:
            for position in range(start, end, segment):
                heapq.heappush(self._waiting, (position, min(position + segment, end)))

    @property
    def finished(self) -> bool:
        """Tell whether nothing waits and nothing is out."""
        return not self._waiting and not self._out

    @property
    def waiting(self) -> int:
        """Return how many pieces wait for a request."""
        return len(self._waiting)

    def claim(self) -> Segment | None:
        """Return the first waiting piece, None when none waits."""
        if not self._waiting:
            return None
        start, end = heapq.heappop(self._waiting)
        segment = Segment(start, end, start)
        self._out[id(segment)] = segment
        return segment

    def release(self, segment: Segment) -> None:
        """Take a piece back, complete or not; what is left of it waits again."""
        del self._out[id(segment)]
        if segment.left > 0:
            heapq.heappush(self._waiting, (segment.position, segment.end))
