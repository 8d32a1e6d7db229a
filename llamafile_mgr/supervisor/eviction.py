"""Who must go when a model needs memory: the least recently used that nobody uses or has pinned. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["EvictionMove", "Lodger", "Move", "decide_room"]


@dataclass(frozen=True, slots=True)
class Lodger:
    """A loaded model: the bytes that it takes, the seconds since its last call, and the bytes that were
    predicted of it."""

    name: str
    resident: int
    idle_seconds: float
    pinned: bool = False
    busy: bool = False
    predicted: int = 0

    @property
    def taken(self) -> int:
        """Return the bytes that it takes, or will take when it has loaded."""
        return max(self.resident, self.predicted)


class Move(StrEnum):
    """What to do before a newcomer is started."""

    START = "start"
    EVICT = "evict"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class EvictionMove:
    """``victim``: whom to evict. START: there is room. WAIT: somebody busy has to finish first. REFUSE: not
    even all that may be evicted would make room."""

    move: Move
    victim: str | None = None


def decide_room(
    needed: int, available: int, lodgers: Sequence[Lodger], limit: int | None = None
) -> EvictionMove:
    """Return the next move towards ``needed`` bytes while ``available`` are left beside the lodgers.

    ``limit``: what all of them together may take. Ask again after every eviction: what it gave back is
    measured and not guessed.
    """
    taken = sum(each.taken for each in lodgers)
    # What loads now has yet to take what it was promised.
    free = available - taken + sum(each.resident for each in lodgers)
    if limit is not None:
        free = min(free, limit - taken)
    if free >= needed:
        return EvictionMove(Move.START)
    loose = [each for each in lodgers if not each.pinned]
    if free + sum(each.taken for each in loose) < needed:
        return EvictionMove(Move.REFUSE)
    idle = [each for each in loose if not each.busy]
    if not idle:
        return EvictionMove(Move.WAIT)
    return EvictionMove(Move.EVICT, max(idle, key=lambda each: each.idle_seconds).name)
