"""How many connections, how fast, and when one counts as stalled. Pure: time comes in as a value."""

from __future__ import annotations

MOST_JOBS = 16
_FIRST_JOBS = 4
#: More connections are kept only when they carry this much more.
_WORTHWHILE = 1.15
#: Observations without a change before more connections are tried again.
_PATIENCE = 20


class JobControl:
    """Doubles the connections while that carries more bytes, and halves them when the server is busy."""

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed
        self._ceiling = MOST_JOBS
        self.target = fixed or _FIRST_JOBS
        self._before: float | None = None
        self._previous = self.target
        self._calm = 0

    def observe(self, bytes_per_second: float, *, saturated: bool = True) -> int:
        """Take the rate of the last interval and return how many connections there should be.

        ``saturated``: all wanted connections were at work in the interval; else it tells nothing.
        """
        if self._fixed or not saturated:
            return self.target
        if self._before is None or bytes_per_second > self._before * _WORTHWHILE:
            self._before = bytes_per_second
            self._previous = self.target
            self.target = min(self.target * 2, self._ceiling)
            self._calm = 0
        elif self.target > self._previous:
            self.target = self._previous
        else:
            self._calm += 1
            if self._calm >= _PATIENCE:
                self._before, self._calm = bytes_per_second / _WORTHWHILE, 0
        return self.target

    def busy(self) -> int:
        """Note that the server asked for less, and return how many connections there should be."""
        self.target = max(1, self.target // 2)
        self._ceiling = max(1, self.target)
        self._previous = self.target
        return self.target


class RateLimit:
    """A bucket that fills at ``rate`` bytes a second; 0 lets everything through."""

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._free_at = now

    def delay(self, count: int, now: float) -> float:
        """Take ``count`` bytes out and return how many seconds to wait before the next."""
        if not self._rate:
            return 0.0
        self._free_at = max(self._free_at, now) + count / self._rate
        return self._free_at - now


class StallMeter:
    """Watches the speed of one connection over windows of ``seconds`` spent waiting for bytes.

    Time that we spend writing or throttling ourselves is not fed in, so it never counts as a stall.
    """

    def __init__(self, minimum: int, seconds: float) -> None:
        self._least = minimum * seconds
        self._window = seconds
        self._waited = 0.0
        self._received = 0

    def feed(self, waited: float, received: int) -> bool:
        """Take one wait with what it brought; True when the connection has become too slow."""
        self._waited += waited
        self._received += received
        if self._waited < self._window:
            return False
        slow = self._received < self._least
        self._waited, self._received = 0.0, 0
        return slow
