"""Which engine gets the next call, and how fast each one is. Pure: times come in as monotonic seconds.

Engines of one machine are alike, and the one with the fewest calls is the best. Remote ones are not: a GPU
may do in one second what takes this machine a minute, so there the expected wait decides.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from llamafile_mgr.supervisor.members import Member

__all__ = ["Load", "MemberRate", "Rates", "choose_member"]

#: Busy time after which a measurement counts half.
_HALF_LIFE_SECONDS = 20.0
#: Fewer answers, or less time, say nothing: the first ones pay for connections and cold caches.
_LEAST_ANSWERS = 8
_LEAST_BUSY_SECONDS = 0.05
#: After so long without an answer all is forgotten, so that one that was slow once gets another chance.
_STALE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """``in_flight``: calls of one engine. ``rate``: its work a second, None when unknown."""

    in_flight: int
    rate: float | None


def choose_member(loads: Sequence[Load]) -> int:
    """Return the position of the engine where one more call is done soonest, the first of equals.

    An engine whose rate is unknown is taken to be as fast as the others are on average.
    """
    known = [load.rate for load in loads if load.rate]
    usual = sum(known) / len(known) if known else 1.0
    return min(range(len(loads)), key=lambda at: (loads[at].in_flight + 1) / (loads[at].rate or usual))


class MemberRate:
    """The rate of one engine: work that was answered per second in which it had any, lately."""

    def __init__(self) -> None:
        self._under_way = 0
        self._since = 0.0
        self._work = 0.0
        self._busy = 0.0
        self._answers = 0
        self._ended = 0.0

    def begin(self, now: float) -> None:
        """Note that a call was sent."""
        if now - self._ended > _STALE_SECONDS and not self._under_way:
            self._work = self._busy = 0.0
            self._answers = 0
        self._advance(now)
        self._under_way += 1

    def end(self, work: float, now: float) -> None:
        """Note the end of a call; ``work``: 0 for one that was not answered."""
        self._advance(now)
        self._under_way -= 1
        self._work += work
        self._answers += work > 0
        self._ended = now

    def rate(self, now: float) -> float | None:
        """Return the work per busy second, None when little or nothing is known of late."""
        if self._answers < _LEAST_ANSWERS or self._busy < _LEAST_BUSY_SECONDS:
            return None
        return None if now - self._ended > _STALE_SECONDS else self._work / self._busy

    def _advance(self, now: float) -> None:
        passed, self._since = max(0.0, now - self._since), now
        if self._under_way:
            kept = 0.5 ** (passed / _HALF_LIFE_SECONDS)
            self._work *= kept
            self._busy = self._busy * kept + passed


class Rates:
    """The meters of a pool's engines; one is forgotten with its engine."""

    def __init__(self) -> None:
        self._meters: weakref.WeakKeyDictionary[Member, MemberRate] = weakref.WeakKeyDictionary()

    def begin(self, member: Member, now: float) -> None:
        """Note that a call was sent."""
        self._meter(member).begin(now)

    def end(self, member: Member, work: float, now: float) -> None:
        """Note the end of a call; ``work``: 0 for one that was not answered."""
        self._meter(member).end(work, now)

    def rate(self, member: Member, now: float) -> float | None:
        """Return the work per busy second, None when little or nothing is known of late."""
        return self._meter(member).rate(now)

    def choose(self, members: Sequence[Member], now: float) -> Member:
        """Return the one where a call is done soonest."""
        return members[choose_member([Load(each.in_flight, self.rate(each, now)) for each in members])]

    def _meter(self, member: Member) -> MemberRate:
        meter = self._meters.get(member)
        if meter is None:
            meter = self._meters[member] = MemberRate()
        return meter
