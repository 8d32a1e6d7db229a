"""Who may start now, who waits and who is told to come back. The queue is pure; time comes in.

A queue is bounded in texts and in estimated tokens, so that one request of a thousand texts is not counted
like one of a single word. Clients take turns, and one that fills the queue leaves room for the others: it
may hold at most twice what is free (the dynamic threshold of switch buffers).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

from llamafile_mgr.proxy.refusals import BusyError

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "Admission",
    "Cost",
    "FairQueue",
    "QueueLimits",
    "RateMeter",
    "Ticket",
    "Turn",
    "estimate_tokens",
]

_THRESHOLD = 2
#: Of English, rather too few.
CHARACTERS_PER_TOKEN = 3
_LONGEST_RETRY_SECONDS = 120
_RATE_WINDOW_SECONDS = 60.0


def estimate_tokens(texts: Iterable[str]) -> int:
    """Return roughly how many tokens the texts have: too many rather than too few for English."""
    return sum(len(text) // CHARACTERS_PER_TOKEN + 2 for text in texts)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """``items``, ``tokens``: held at once, running or waiting. ``active``: requests that run at once."""

    items: int
    tokens: int
    active: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What one request weighs."""

    items: int
    tokens: int


@dataclass(eq=False, slots=True)
class Ticket:
    """A request's place. ``started``: it may run."""

    client: str
    cost: Cost
    started: bool = False


@dataclass(slots=True)
class _Share:
    """What one client holds."""

    items: int = 0
    tokens: int = 0


class FairQueue:
    """Admits, orders and bounds; returns what may start and does nothing itself."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._shares: dict[str, _Share] = {}
        self.active = 0
        self.items = 0
        self.tokens = 0

    @property
    def waiting(self) -> int:
        """Return how many requests wait for their turn."""
        return sum(map(len, self._waiting.values()))

    def offer(self, client: str, cost: Cost) -> Ticket | None:
        """Return a ticket, started when it may run at once, or None when there is no room.

        A request larger than the whole queue is taken while the queue is empty: it could never run else.
        """
        share = self._shares.get(client) or _Share()
        if self.items and not (
            self._fits(share.items, cost.items, self.items, self._limits.items)
            and self._fits(share.tokens, cost.tokens, self.tokens, self._limits.tokens)
        ):
            return None
        self._shares[client] = share
        ticket = Ticket(client, cost)
        self._hold(share, cost, +1)
        if not self._waiting and self.active < self._limits.active:
            self._start(ticket)
            return ticket
        self._waiting.setdefault(client, deque()).append(ticket)
        self._start_some()
        return ticket

    @staticmethod
    def _fits(own: int, more: int, total: int, limit: int) -> bool:
        free = limit - total
        return more <= free and own + more <= max(more, _THRESHOLD * free)

    def leave(self, ticket: Ticket) -> list[Ticket]:
        """Give a place back, whether it ran or still waited; return the tickets that may start now."""
        share = self._shares.get(ticket.client) or _Share()
        self._hold(share, ticket.cost, -1)
        if share.items <= 0 and share.tokens <= 0:
            self._shares.pop(ticket.client, None)
        if ticket.started:
            self.active -= 1
        else:
            queue = self._waiting[ticket.client]
            queue.remove(ticket)
            if not queue:
                del self._waiting[ticket.client]
        return self._start_some()

    def _start_some(self) -> list[Ticket]:
        """Start the next request of each client in turn while there is room to run."""
        started = []
        while self._waiting and self.active < self._limits.active:
            client, queue = next(iter(self._waiting.items()))
            ticket = queue.popleft()
            if queue:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            self._start(ticket)
            started.append(ticket)
        return started

    def _start(self, ticket: Ticket) -> None:
        ticket.started = True
        self.active += 1

    def _hold(self, share: _Share, cost: Cost, sign: int) -> None:
        share.items += sign * cost.items
        share.tokens += sign * cost.tokens
        self.items += sign * cost.items
        self.tokens += sign * cost.tokens


@dataclass(slots=True)
class RateMeter:
    """Tokens a second over the last minute of work."""

    _done: deque[tuple[float, float, int]] = field(default_factory=deque)

    def note(self, began: float, ended: float, tokens: int) -> None:
        """Record a request that ran from ``began`` to ``ended`` (monotonic seconds)."""
        self._done.append((began, ended, tokens))
        while self._done and self._done[0][1] < ended - _RATE_WINDOW_SECONDS:
            self._done.popleft()

    def rate(self) -> float | None:
        """Return tokens a second, None before anything was measured."""
        if not self._done:
            return None
        span = self._done[-1][1] - min(began for began, _, _ in self._done)
        return sum(tokens for _, _, tokens in self._done) / max(span, 0.001)

    def retry_seconds(self, tokens_ahead: int) -> int:
        """Return whole seconds until half of what is queued should be done."""
        rate = self.rate()
        if rate is None:
            return 1
        return min(_LONGEST_RETRY_SECONDS, max(1, math.ceil(tokens_ahead / 2 / max(rate, 1.0))))


class Admission:
    """The queue of one pool, for handlers."""

    def __init__(self, limits: QueueLimits) -> None:
        self.queue = FairQueue(limits)
        self.meter = RateMeter()
        self._turns: dict[Ticket, asyncio.Future[None]] = {}

    def turn(self, client: str, cost: Cost) -> Turn:
        """Return an async context in which the request has its turn."""
        return Turn(self, client, cost)

    async def take(self, client: str, cost: Cost) -> Ticket:
        """Wait for a turn; raises as ``Turn`` does."""
        ticket = self.queue.offer(client, cost)
        if ticket is None:
            seconds = self.meter.retry_seconds(self.queue.tokens)
            raise BusyError(
                f"the queue is full: {self.queue.items} texts of about {self.queue.tokens} tokens",
                retry_seconds=seconds,
                hint=f"try again in {seconds} seconds",
            )
        if not ticket.started:
            waiter = self._turns[ticket] = asyncio.get_running_loop().create_future()
            try:
                await waiter
            except BaseException:
                self.give_back(ticket)
                raise
        return ticket

    def give_back(self, ticket: Ticket) -> None:
        """End a turn and begin the next."""
        self._turns.pop(ticket, None)
        for started in self.queue.leave(ticket):
            waiter = self._turns.get(started)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)


class Turn:
    """A request's turn: an async context that waits for it and yields the seconds waited. A class and no
    generator, because every request passes here.

    Raises:
        BusyError: the queue is full.
    """

    __slots__ = ("_admission", "_began", "_client", "_ticket", "cost")

    def __init__(self, admission: Admission, client: str, cost: Cost) -> None:
        self._admission = admission
        self._client = client
        self.cost = cost
        self._ticket: Ticket | None = None
        self._began = 0.0

    async def __aenter__(self) -> float:
        arrived = time.monotonic()
        self._ticket = await self._admission.take(self._client, self.cost)
        self._began = time.monotonic()
        return self._began - arrived

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(done=kind is None)

    def end(self, *, done: bool) -> None:
        """Give the place to the next; ``done``: the work counts for the measured rate."""
        if self._ticket is None:
            return
        if done:
            self._admission.meter.note(self._began, time.monotonic(), self.cost.tokens)
        self._admission.give_back(self._ticket)
        self._ticket = None
