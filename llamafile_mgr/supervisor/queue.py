"""The one queue of a pool: who is let in, who waits, and what is sent to which engine. Pure: time comes in.

* Admission is bounded in texts and in estimated tokens, so that one request of a thousand texts is not
  counted like one of a single word. A client that fills the queue leaves room for others: it may hold at
  most twice what is free (the dynamic threshold of switch buffers).
* A query overtakes bulk, but after ``queries_in_a_row`` batches of queries bulk gets its turn, so that
  neither starves. Within a priority class clients take turns, and so do the calls of each; items of several
  calls share a batch.
* A suspect, of which an engine may have died, is sent alone to an engine that has nothing else, one in the
  whole pool at a time, and others have their turn in between.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

from llamafile_mgr.supervisor.calls import Batch, BatchPolicy, Item, PendingCall, Priority, Weight

_THRESHOLD = 2
_NOTHING = Weight(0, 0)
_TURNS = (Priority.QUERY, Priority.BULK)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """``items``, ``tokens``: held at once, under way or waiting."""

    items: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Worker:
    """An engine that can be asked now. ``width``: engines behind it. ``rate``: tokens a busy second where
    engines differ in speed, None where they are alike or nothing is known."""

    key: object
    width: int = 1
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Effects:
    """What is to be done now. ``start``: batches, which count as under way. ``overdue``: calls whose time to
    find an engine is over, no longer in the queue. ``load``: somebody waits and there are no engines.
    ``look_at``: when to look again though nothing happens."""

    start: Sequence[Batch] = ()
    overdue: Sequence[PendingCall] = ()
    load: bool = False
    look_at: float | None = None


@dataclass(slots=True)
class _Load:
    """Batches that one engine has, and their tokens. ``alone``: it must get no others."""

    bulk: int = 0
    query: int = 0
    control: int = 0
    tokens: int = 0
    alone: bool = False

    @property
    def total(self) -> int:
        return self.bulk + self.query + self.control

    def has_room(self, priority: Priority, width: int, policy: BatchPolicy) -> bool:
        """Tell whether the engine takes one more batch.

        Bulk waits while queries are with the engine: texts that share a batch wait for each other.
        """
        if priority is Priority.CONTROL:
            return self.control < policy.control_batches * width
        if priority is Priority.BULK:
            return self.bulk < policy.bulk_batches * width and not self.query
        return self.bulk + self.query < (policy.bulk_batches + policy.extra_batches) * width

    def add(self, batch: Batch, sign: int) -> None:
        if batch.priority is Priority.BULK:
            self.bulk += sign
        elif batch.priority is Priority.QUERY:
            self.query += sign
        else:
            self.control += sign
        self.tokens += sign * batch.tokens
        if batch.alone:
            self.alone = sign > 0


_NO_LOAD = _Load()
Calls = OrderedDict[PendingCall, deque[Item]]


class CallQueue:
    """What a pool holds, within ``limits``. Only its dispatcher writes it."""

    def __init__(self, limits: QueueLimits | None = None) -> None:
        self.limits = limits
        self._shares: dict[str, Weight] = {}
        self._waiting: dict[Priority, OrderedDict[str, Calls]] = {each: OrderedDict() for each in Priority}
        self._suspects: deque[Item] = deque()
        self._loads: dict[object, _Load] = {}
        self._queries_in_a_row = 0
        self._suspect_was_last = False
        self._had_workers_at = -math.inf
        self.items = 0
        self.tokens = 0

    # Admission.

    def admit(self, client: str, weight: Weight) -> bool:
        """Take a call in, or say that there is no room.

        A call larger than the whole queue is taken while the queue is empty: it could never run else.
        """
        share = self._shares.get(client, _NOTHING)
        limits = self.limits
        if (
            limits is not None
            and self.items
            and not (
                _fits(share.items, weight.items, limits.items - self.items)
                and _fits(share.tokens, weight.tokens, limits.tokens - self.tokens)
            )
        ):
            return False
        self._hold(client, share, weight.items, weight.tokens)
        return True

    def release(self, client: str, weight: Weight) -> None:
        """Let an admitted call go."""
        self._hold(client, self._shares.get(client, _NOTHING), -weight.items, -weight.tokens)

    def _hold(self, client: str, share: Weight, items: int, tokens: int) -> None:
        self.items += items
        self.tokens += tokens
        items, tokens = share.items + items, share.tokens + tokens
        if items > 0 or tokens > 0:
            self._shares[client] = Weight(items, tokens)
        else:
            self._shares.pop(client, None)

    # What waits.

    @property
    def active(self) -> int:
        """Return how many batches are under way."""
        return sum(load.total for load in self._loads.values())

    @property
    def anything_waits(self) -> bool:
        """Tell whether an item waits."""
        waiting = self._waiting
        return bool(
            waiting[Priority.QUERY] or waiting[Priority.BULK] or waiting[Priority.CONTROL] or self._suspects
        )

    @property
    def waiting(self) -> int:
        """Return how many items wait."""
        return len(self._suspects) + sum(self.depth(priority) for priority in Priority)

    @property
    def idle(self) -> bool:
        """Tell whether nothing waits and nothing is under way."""
        return not (self._loads or self.anything_waits)

    def depth(self, priority: Priority) -> int:
        """Return how many items of a priority class wait for their first engine."""
        return sum(len(items) for calls in self._waiting[priority].values() for items in calls.values())

    def add(self, call: PendingCall, items: Iterable[Item]) -> None:
        """Put a call's items at the end of its priority class; within the call the longest go first."""
        ordered = deque(sorted(items, key=_longest_first))
        if ordered:
            clients = self._waiting[call.priority]
            clients.setdefault(call.client, OrderedDict())[call] = ordered

    def put_back(self, items: Sequence[Item], ready_by: float) -> None:
        """Take back what an engine was lost with: suspects for a try alone, others to the head of the line.

        Their calls are held until ``ready_by`` for an engine, or as long as before.
        """
        for item in reversed(items):  # the longest first, as they were
            call = item.call
            call.ready_by = min(max(call.ready_by, ready_by), call.end)
            if item.deaths:
                self._suspects.append(item)
                continue
            clients = self._waiting[call.priority]
            calls = clients.setdefault(call.client, OrderedDict())
            calls.setdefault(call, deque()).appendleft(item)
            calls.move_to_end(call, last=False)
            clients.move_to_end(call.client, last=False)

    def cancel(self, call: PendingCall) -> None:
        """Forget a call's waiting items; those under way are not stopped here."""
        clients = self._waiting[call.priority]
        calls = clients.get(call.client)
        if calls is not None and calls.pop(call, None) is not None and not calls:
            del clients[call.client]
        if self._suspects:
            self._suspects = deque(item for item in self._suspects if item.call is not call)

    def finish(self, batch: Batch) -> None:
        """Note that a batch is no longer under way."""
        load = self._loads[batch.worker]
        load.add(batch, -1)
        if not load.total:
            del self._loads[batch.worker]

    # What happens next.

    def advance(
        self,
        now: float,
        workers: Sequence[Worker],
        policy: BatchPolicy,
        *,
        loaded: bool,
        hopeless: bool = False,
    ) -> Effects:
        """Return what is to be done. ``workers``: the engines that can be asked now. ``loaded``: there are
        engines, ready or not, or they are being started. ``hopeless``: none of them will be ready soon.
        """
        if workers:
            self._had_workers_at = now
            return Effects(start=tuple(self._start(workers, policy)))
        calls = self._waiting_calls()
        if not calls:
            return Effects()
        if not loaded:
            return Effects(load=True)
        until = {call: max(call.ready_by, self._had_workers_at + call.hold_seconds) for call in calls}
        overdue = [call for call in calls if hopeless or until[call] <= now]
        for call in overdue:
            self.cancel(call)
        left = [at for at in until.values() if at > now]
        return Effects(overdue=tuple(overdue), look_at=min(left) if left and not hopeless else None)

    def start_at_once(
        self, items: Sequence[Item], tokens: int, workers: Sequence[Worker], policy: BatchPolicy
    ) -> Batch | None:
        """Return the batch that ``add`` and ``advance`` would make of a call's items, ``tokens`` together; it
        counts as under way. None where they have to wait, make several batches, or should share one.

        While an engine is busy the next calls better share a batch, if ever they do.
        """
        call = items[0].call
        limit = 1 if call.priority is Priority.CONTROL else policy.batch_texts
        if self.anything_waits or (self._loads and policy.batch_texts > 1):
            return None
        if len(items) > limit or (len(items) > 1 and tokens > _share(tokens, workers, policy)):
            return None
        for worker in _in_order(workers, self._loads):
            load = self._loads.get(worker.key)
            if load is None:
                load = _Load()
            elif load.alone or not load.has_room(call.priority, worker.width, policy):
                continue
            self._note_turn(call.priority)
            ordered = items if len(items) == 1 else sorted(items, key=_longest_first)
            return self._send(Batch(call.priority, tuple(ordered), worker.key, tokens), load)
        return None

    def drop_all(self) -> list[PendingCall]:
        """Forget everything that waits; return its calls."""
        calls = self._waiting_calls()
        for call in calls:
            self.cancel(call)
        return calls

    def _waiting_calls(self) -> list[PendingCall]:
        lines = (calls for clients in self._waiting.values() for calls in clients.values())
        found = dict.fromkeys(call for calls in lines for call in calls)
        found.update(dict.fromkeys(item.call for item in self._suspects))
        return list(found)

    def _start(self, workers: Sequence[Worker], policy: BatchPolicy) -> Iterator[Batch]:
        """Yield batches while engines have room."""
        loads = {worker.key: self._loads.get(worker.key) or _Load() for worker in workers}
        free = list(workers)
        if self._suspects and not any(load.alone for load in self._loads.values()):
            if self._suspect_was_last and (batch := self._next_batch(free, loads, policy)) is not None:
                yield self._send(batch, loads[batch.worker])
            kept = min(free, key=lambda worker: loads[worker.key].total)
            free.remove(kept)  # it gets nothing new until it is idle, and then the suspect
            if not loads[kept.key].total:
                item = self._suspects.popleft()
                batch = Batch(item.call.priority, (item,), kept.key, item.tokens, alone=True)
                yield self._send(batch, loads[kept.key])
        while free and self.anything_waits and (batch := self._next_batch(free, loads, policy)) is not None:
            yield self._send(batch, loads[batch.worker])

    def _send(self, batch: Batch, load: _Load) -> Batch:
        self._suspect_was_last = batch.alone
        self._loads[batch.worker] = load
        load.add(batch, +1)
        return batch

    def _next_batch(
        self, workers: Sequence[Worker], loads: dict[object, _Load], policy: BatchPolicy
    ) -> Batch | None:
        for worker in _in_order(workers, loads):
            load = loads[worker.key]
            if load.alone:
                continue
            priority = self._choose_priority(load, worker.width, policy)
            if priority is None:
                continue
            self._note_turn(priority)
            enough = policy.batch_tokens * sum(each.width for each in workers)
            room = _share(self._waiting_tokens(priority, enough), workers, policy)
            items = self._pack(priority, policy, room)
            return Batch(priority, items, worker.key, sum(item.tokens for item in items))
        return None

    def _note_turn(self, priority: Priority) -> None:
        if priority is not Priority.CONTROL:
            self._queries_in_a_row = self._queries_in_a_row + 1 if priority is Priority.QUERY else 0

    def _choose_priority(self, load: _Load, width: int, policy: BatchPolicy) -> Priority | None:
        """Return whose batch goes to an engine with this load."""
        if self._waiting[Priority.CONTROL] and load.has_room(Priority.CONTROL, width, policy):
            return Priority.CONTROL
        bulk, query = (bool(self._waiting[priority]) for priority in (Priority.BULK, Priority.QUERY))
        if bulk and (not query or self._queries_in_a_row >= policy.queries_in_a_row):
            return Priority.BULK if load.has_room(Priority.BULK, width, policy) else None
        return Priority.QUERY if query and load.has_room(Priority.QUERY, width, policy) else None

    def _waiting_tokens(self, priority: Priority, enough: int) -> int:
        """Return the tokens of a priority class that wait, ``enough`` where there are more."""
        waiting = 0
        for calls in self._waiting[priority].values():
            for item in chain.from_iterable(calls.values()):
                waiting += item.tokens
                if waiting >= enough:
                    return enough
        return waiting

    def _pack(self, priority: Priority, policy: BatchPolicy, room: int) -> tuple[Item, ...]:
        """Take items from clients and calls in turn until the batch is full; the first always fits.

        The call whose turn it is fills the batch as far as it can; a remainder is filled by the next ones.
        """
        clients = self._waiting[priority]
        limit = 1 if priority is Priority.CONTROL else policy.batch_texts
        taken: list[Item] = []
        for client, call in _turns(clients, limit):
            if len(taken) == limit:
                break
            if taken and call.work is not taken[0].call.work:
                continue
            calls = clients[client]
            items, before = calls[call], len(taken)
            while items and len(taken) < limit and (not taken or items[0].tokens <= room):
                item = items.popleft()
                taken.append(item)
                room -= item.tokens
            if not items:
                del calls[call]
            elif len(taken) > before:
                calls.move_to_end(call)
            if not calls:
                del clients[client]
            elif len(taken) > before:
                clients.move_to_end(client)
            if items and items[-1].tokens > room:
                break
        return tuple(sorted(taken, key=_longest_first))


def _share(waiting: int, workers: Sequence[Worker], policy: BatchPolicy) -> int:
    """Return the tokens that a batch may have: of the last that wait, each of several engines that are alike
    gets its part, so that they end together."""
    engines = sum(worker.width for worker in workers)
    if engines < 2 or any(worker.rate is not None for worker in workers):
        return policy.batch_tokens
    return min(policy.batch_tokens, max(policy.least_share, -(-waiting // engines)))


def _longest_first(item: Item) -> int:
    return -item.tokens


def _fits(own: int, more: int, free: int) -> bool:
    return more <= free and own + more <= max(more, _THRESHOLD * free)


def _turns(clients: OrderedDict[str, Calls], limit: int) -> Iterator[tuple[str, PendingCall]]:
    """Yield a call of each client, then a second of each; no more of a client than a batch can take."""
    if len(clients) == 1:
        [(client, calls)] = clients.items()
        yield from ((client, call) for call in [*islice(calls, limit)])
        return
    columns = [[(client, call) for call in islice(calls, limit)] for client, calls in clients.items()]
    for row in zip_longest(*columns):
        yield from (each for each in row if each is not None)


def _in_order(workers: Sequence[Worker], loads: Mapping[object, _Load]) -> Sequence[Worker]:
    """Return the engines, the best one for a batch first.

    Engines of one machine are alike, and the one with the fewest batches is the best. Remote ones are not: a
    GPU may do in one second what takes this machine a minute, so there the expected wait decides; one of
    unknown rate is taken to be as fast as the others are on average.
    """
    if len(workers) == 1:
        return workers
    known = [worker.rate for worker in workers if worker.rate]
    if not known:
        return sorted(workers, key=lambda worker: loads.get(worker.key, _NO_LOAD).total / worker.width)
    usual = sum(known) / len(known)

    def expected_wait(worker: Worker) -> float:
        return (loads.get(worker.key, _NO_LOAD).tokens + 1) / (worker.rate or usual)

    return sorted(workers, key=expected_wait)
