"""Which texts go to the engine together, and when. Pure: no clock, no task, no socket.

Two lanes: ``QUERY`` for somebody who waits for one vector, ``BULK`` for everything else. A query overtakes
bulk, but after ``queries_in_a_row`` groups of queries a group of bulk gets its turn, so that neither
starves. Within a lane calls take turns, and texts of several calls share a group.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["BatchPolicy", "Group", "Item", "Lane", "Queue"]


class Lane(StrEnum):
    """How urgent a text is."""

    QUERY = "query"
    BULK = "bulk"


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """``group_tokens``, ``group_texts``: the most that one request to an engine carries. ``bulk_groups``:
    groups of bulk under way per replica; with one a query waits for no more than one. ``extra_groups``: what
    queries may have under way on top. ``queries_in_a_row``: groups of queries after which bulk gets a turn.
    """

    group_tokens: int = 256
    group_texts: int = 32
    bulk_groups: int = 1
    extra_groups: int = 1
    queries_in_a_row: int = 4


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One text of one call. ``position``: its place in the call. ``tokens``: counted or estimated."""

    call: int
    position: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Group:
    """Texts for one request to an engine, the longest first. ``place``: the replica that it is counted at."""

    lane: Lane
    items: tuple[Item, ...]
    place: int


@dataclass(slots=True)
class _UnderWay:
    """Groups that one replica has."""

    bulk: int = 0
    query: int = 0

    @property
    def total(self) -> int:
        return self.bulk + self.query

    def add(self, lane: Lane, groups: int) -> None:
        if lane is Lane.BULK:
            self.bulk += groups
        else:
            self.query += groups


class Queue:
    """The texts that wait, and how many groups are under way. Only the scheduler writes it.

    A group is counted at the place with the fewest, since the pool sends it to the engine with the fewest.
    """

    def __init__(self, policy: BatchPolicy) -> None:
        self.policy = policy
        self._waiting: dict[Lane, OrderedDict[int, deque[Item]]] = {lane: OrderedDict() for lane in Lane}
        self._places: list[_UnderWay] = []
        self._queries_in_a_row = 0

    @property
    def idle(self) -> bool:
        """Tell whether nothing waits and nothing is under way."""
        return not any(self._waiting.values()) and not any(place.total for place in self._places)

    def depth(self, lane: Lane) -> int:
        """Return how many texts wait in ``lane``."""
        return sum(len(items) for items in self._waiting[lane].values())

    def add(self, lane: Lane, call: int, items: Iterable[Item]) -> None:
        """Put a call's texts at the end of a lane; within the call the longest go first."""
        ordered = deque(sorted(items, key=lambda item: -item.tokens))
        if ordered:
            self._waiting[lane][call] = ordered

    def cancel(self, call: int) -> None:
        """Forget a call's waiting texts; those under way are not stopped here."""
        for calls in self._waiting.values():
            calls.pop(call, None)

    def finish(self, group: Group) -> None:
        """Note that a group is no longer under way."""
        self._places[group.place].add(group.lane, -1)

    def next_group(self, replicas: int) -> Group | None:
        """Return the next group to send, which then counts as under way; None while nothing may be sent.

        ``replicas``: the engines that can be asked now, at least 1.
        """
        replicas = max(1, replicas)
        self._places += [_UnderWay() for _ in range(replicas - len(self._places))]
        place = min(range(replicas), key=lambda at: self._places[at].total)
        under_way = self._places[place]
        lane = self._choose_lane(under_way.bulk, under_way.query)
        if lane is None:
            return None
        self._queries_in_a_row = self._queries_in_a_row + 1 if lane is Lane.QUERY else 0
        under_way.add(lane, 1)
        return Group(lane, self._pack(lane), place)

    def _choose_lane(self, bulk_groups: int, query_groups: int) -> Lane | None:
        """Return whose group goes to a replica with so many under way.

        Bulk waits while queries are with the engine: texts that share a batch wait for each other.
        """
        policy = self.policy
        bulk, query = bool(self._waiting[Lane.BULK]), bool(self._waiting[Lane.QUERY])
        turn_of_bulk = bulk and (not query or self._queries_in_a_row >= policy.queries_in_a_row)
        if turn_of_bulk:
            return Lane.BULK if bulk_groups < policy.bulk_groups and not query_groups else None
        room = policy.bulk_groups + policy.extra_groups
        return Lane.QUERY if query and bulk_groups + query_groups < room else None

    def _pack(self, lane: Lane) -> tuple[Item, ...]:
        """Take items from the lane's calls in turn until the group is full; the first always fits.

        The call whose turn it is fills the group as far as it can; a remainder is filled by the next ones.
        """
        calls = self._waiting[lane]
        taken: list[Item] = []
        room = self.policy.group_tokens
        for call in list(calls):
            items = calls[call]
            while items and len(taken) < self.policy.group_texts and (not taken or items[0].tokens <= room):
                item = items.popleft()
                taken.append(item)
                room -= item.tokens
            if not items:
                del calls[call]
            elif len(taken) >= self.policy.group_texts or items[-1].tokens > room:
                calls.move_to_end(call)
                break
            else:
                calls.move_to_end(call)
        return tuple(sorted(taken, key=lambda item: -item.tokens))
