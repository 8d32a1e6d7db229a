"""Calls of a model, as the pool's queue sees them: who asks, until when, how urgent, how much it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from llamafile_mgr.errors import Error

if TYPE_CHECKING:
    from llamafile_mgr.supervisor.permits import WorkerSlot


class Priority(StrEnum):
    """The priority class of a call. ``CONTROL``: what costs an engine next to nothing, such as counting
    tokens. ``QUERY``: somebody waits for one vector. ``BULK``: everything else."""

    CONTROL = "control"
    QUERY = "query"
    BULK = "bulk"


@dataclass(frozen=True, slots=True)
class Weight:
    """How much a call is: texts, and their estimated tokens."""

    items: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Deadline:
    """Until when, on the monotonic clock, an engine may become ready, and the whole may take; ``seconds``:
    the latter as it was asked for."""

    ready_by: float
    end: float
    seconds: float

    @classmethod
    def after(cls, ready_seconds: float, seconds: float) -> Deadline:
        """Return the deadline of a call that begins now."""
        now = time.monotonic()
        return cls(now + min(ready_seconds, seconds), now + seconds, seconds)


@dataclass(slots=True, eq=False)
class Caller:
    """Who asks, for turns between clients, and until when; everything that one request asks of engines has
    the same. The pool notes when the first of it was ``sent`` (monotonic seconds), how long that had waited,
    and the seconds from then to its end."""

    client: str
    deadline: Deadline
    sent: float | None = None
    queue_seconds: float = 0.0
    engine_seconds: float = 0.0


class Work(Protocol):
    """What engines are asked for. Items share a batch only when their calls have the same work."""

    async def compute(
        self, slot: WorkerSlot, payloads: Sequence[Any], tokens: Sequence[int]
    ) -> Sequence[Any | Error]:
        """Ask the slot's engine; return a result per payload, errors among them.

        Raises:
            EngineLostError: the engine was lost; the pool decides what becomes of the items.
            Error: the same error for each.
        """

    def discard(self, result: Any) -> None:
        """Let go of a result that nobody waits for any more."""

    def note_wait(self, priority: Priority, seconds: float, items: int) -> None:
        """Take note of how long items of one call waited to be sent."""


@dataclass(slots=True, eq=False)
class PendingCall:
    """A call with items that wait or are under way. ``ready_by``: when it is refused while no engine is
    ready; it moves when engines are lost under its items. ``hold_seconds``: how long it waits for an engine
    after there were some."""

    work: Work
    client: str
    priority: Priority
    ready_by: float
    end: float
    hold_seconds: float


@dataclass(slots=True, eq=False)
class Item:
    """One piece of a call that engines compute as one. ``position``: its place in the call. ``deaths``:
    engines that died of themselves while they had it; above 0 it is a suspect."""

    call: PendingCall
    position: int
    payload: Any
    tokens: int
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """``batch_tokens``, ``batch_texts``: the most that one request to an engine carries. ``bulk_batches``:
    batches of bulk under way per engine; with one a query waits for no more than one. ``extra_batches``:
    what queries may have under way on top. ``queries_in_a_row``: batches of queries after which bulk gets a
    turn. ``control_batches``: small requests under way per engine, beside the others. ``least_share``: so
    many tokens are not shared out between engines, for the sake of fewer requests.
    """

    batch_tokens: int = 256
    batch_texts: int = 32
    bulk_batches: int = 1
    extra_batches: int = 1
    queries_in_a_row: int = 4
    control_batches: int = 8
    least_share: int = 64


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Items for one engine at once, the longest first. ``worker``: the engine's key. ``tokens``: the
    estimated ones of all. ``alone``: nothing else is under way there, for an engine has died with these."""

    priority: Priority
    items: tuple[Item, ...]
    worker: Any
    tokens: int
    alone: bool = False

    @property
    def work(self) -> Work:
        """Return the work of its calls."""
        return self.items[0].call.work
