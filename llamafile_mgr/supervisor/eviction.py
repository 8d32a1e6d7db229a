"""Who must go when a model needs memory: the least recently used that nobody uses or has pinned. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class EvictionCandidate:
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
    """What to do about an incoming model. START: there is memory. WAIT: somebody busy has to finish first.
    REFUSE: not even all that may be evicted would free enough."""

    START = "start"
    WAIT = "wait"
    REFUSE = "refuse"


def decide_room(
    needed: int, available: int, loaded: Sequence[EvictionCandidate], limit: int | None = None
) -> Move | EvictionCandidate:
    """Return the next move towards ``needed`` bytes while ``available`` are left beside what is loaded, or
    what to evict first.

    ``limit``: what all of them together may take. Ask again after every eviction: what it gave back is
    measured and not guessed.
    """
    taken = sum(each.taken for each in loaded)
    # What loads now has yet to take what it was promised.
    free = available - taken + sum(each.resident for each in loaded)
    if limit is not None:
        free = min(free, limit - taken)
    if free >= needed:
        return Move.START
    loose = [each for each in loaded if not each.pinned]
    if free + sum(each.taken for each in loose) < needed:
        return Move.REFUSE
    idle = [each for each in loose if not each.busy]
    if not idle:
        return Move.WAIT
    return max(idle, key=lambda each: each.idle_seconds)
