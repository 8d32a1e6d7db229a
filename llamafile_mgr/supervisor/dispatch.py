"""Calls of a pool and the engines that compute them: carries out what the queue decides.

Nothing waits for a clock: what finds an engine free is sent in the loop's next turn; items share a batch only
when they came together or had to wait anyway.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import (
    BusyError,
    DeadlineError,
    DeadlyRequestError,
    EngineLostError,
    EngineUnreachedError,
    Error,
    InternalError,
    NotReadyError,
)
from llamafile_mgr.supervisor.backend import Backend
from llamafile_mgr.supervisor.calls import (
    Batch,
    BatchPolicy,
    Caller,
    Item,
    PendingCall,
    Priority,
    Weight,
    Work,
)
from llamafile_mgr.supervisor.meters import retry_seconds
from llamafile_mgr.supervisor.permits import Permit, WorkerSlot
from llamafile_mgr.supervisor.queue import CallQueue, QueueLimits, Worker
from llamafile_mgr.supervisor.request_work import Arrival, RequestWork
from llamafile_mgr.supervisor.resending import EngineLoss, Resend, judge_loss

#: Deaths under calls, with no call answered in between, of which none counts as the engine's own.
_MOST_EXCUSED = 8
#: A timer may ring so much too early: loops count in milliseconds.
_TIMER_SECONDS = 0.002
_LOG = logging.getLogger("llamafile_mgr.supervisor")


class Fleet(Protocol):
    """The engines of a pool, as its dispatcher needs them."""

    @property
    def members(self) -> Sequence[Backend]:
        """Return all of them, ready or not."""

    @property
    def policy(self) -> BatchPolicy:
        """Return how batches are made for them."""

    @property
    def alike(self) -> bool:
        """Tell whether all are as fast."""

    @property
    def loaded(self) -> bool:
        """Tell whether there are engines, ready or not, or they are being started."""

    @property
    def hopeless(self) -> bool:
        """Tell whether no engine will be ready soon."""

    def load_soon(self) -> None:
        """Start the engines."""

    def note_idle(self) -> None:
        """Tell who waits for it that nothing is asked any more."""

    def not_ready(self) -> NotReadyError:
        """Return why a call cannot be sent."""


_REQUESTS, _ARRIVALS = RequestWork(), Arrival()


@dataclass(slots=True, eq=False)
class _Call(PendingCall):
    """A call and who waits for it. ``stop_early``: the first error ends it."""

    caller: Caller
    stop_early: bool
    done: asyncio.Future[None]
    results: list[Any]
    missing: int
    began: float


@dataclass(frozen=True, slots=True)
class _Lost:
    """How a batch lost its engine."""

    error: EngineLostError
    loss: EngineLoss


class Dispatcher:
    """Lets calls in, sends their batches, and hands out the results. One task per batch, owned here.

    ``hold_seconds``: so long a call is held when engines are lost under it, however old it is by then.
    """

    def __init__(self, fleet: Fleet, limits: QueueLimits | None, hold_seconds: float) -> None:
        self.queue = CallQueue(limits)
        self.last_activity = time.monotonic()
        self._fleet = fleet
        self._hold_seconds = hold_seconds
        self._calls: set[_Call] = set()
        self._batches: dict[asyncio.Task[Any], tuple[Batch, WorkerSlot]] = {}
        self._cancelled: set[asyncio.Task[Any]] = set()
        self._gone: weakref.WeakSet[EngineClient] = weakref.WeakSet()
        self._excused: weakref.WeakSet[EngineClient] = weakref.WeakSet()
        self._excused_in_a_row = 0
        self._looking = False
        self._alarm: asyncio.TimerHandle | None = None
        self._next_end = math.inf
        self._end_alarm: asyncio.TimerHandle | None = None

    def apply(self, limits: QueueLimits | None, hold_seconds: float) -> None:
        """Take other limits; what waits already is kept."""
        self.queue.limits, self._hold_seconds = limits, hold_seconds

    # What callers do.

    def admit(self, caller: Caller, weight: Weight) -> Permit:
        """Return a place in the queue.

        Raises:
            BusyError: there is none.
        """
        if self.queue.admit(caller.client, weight):
            return Permit(self, caller, weight)
        queue = self.queue
        seconds = retry_seconds(queue.tokens, self.rate())
        busy = BusyError(
            f"the queue is full: {queue.items} texts of about {queue.tokens} tokens",
            hint=f"try again in {seconds} seconds",
        )
        busy.retry_after_seconds = seconds
        raise busy

    async def compute(
        self,
        work: Work,
        payloads: Sequence[Any],
        tokens: Sequence[int],
        priority: Priority,
        caller: Caller,
        *,
        stop_early: bool = True,
    ) -> list[Any]:
        """Return a result or an Error for each payload, in their order; with ``stop_early`` None stands for
        what was not computed because another had failed. Cancelling takes out what waits.

        Raises:
            NotReadyError: no engine became ready in time, or the call's time is over.
        """
        if not payloads:
            return []
        now, deadline, count = time.monotonic(), caller.deadline, len(payloads)
        call = _Call(
            work, caller.client, priority, deadline.ready_by, deadline.end, deadline.ready_by - now,
            caller, stop_early, asyncio.get_running_loop().create_future(), [None] * count, count, now,
        )  # fmt: skip
        self._calls.add(call)
        if deadline.end < self._next_end:
            self._watch_deadlines(deadline.end)
        items = [Item(call, at, payloads[at], tokens[at]) for at in range(count)]
        try:
            # Who need not wait is sent at once and waits for its engine itself, without a task or a turn of
            # the loop.
            batch = self.queue.start_at_once(items, sum(tokens), self._workers(), self._fleet.policy)
            if batch is None:
                self.queue.add(call, items)
                self.look_soon()
            elif (slot := self._try_send(batch, now)) is not None:
                await self._run_here(call, batch, slot)
            if not call.done.done():
                await call.done
            call.done.result()
        except BaseException:
            for result in call.results:
                if result is not None and not isinstance(result, Error):
                    work.discard(result)
            if not call.done.cancel() and not call.done.cancelled():
                call.done.exception()  # it has been heard
            raise
        finally:
            self._forget(call)
            if caller.sent is not None:
                caller.engine_seconds = time.monotonic() - caller.sent
        return call.results

    async def ask(
        self, request: EngineRequest, caller: Caller, *, tokens: int = 1, priority: Priority = Priority.BULK
    ) -> EngineReply:
        """Return the reply to a request that may be sent again; ``tokens``: how much it is.

        Raises:
            NotReadyError: as ``compute`` does.
            EngineError: no engine answered.
            DeadlyRequestError: engines died of it.
        """
        [reply] = await self.compute(_REQUESTS, [request], [tokens], priority, caller)
        if isinstance(reply, Error):
            raise reply
        assert isinstance(reply, EngineReply)  # noqa: S101
        return reply

    async def until_ready(self, caller: Caller) -> None:
        """Wait until an engine can be asked; starts them when there are none. Raises NotReadyError."""
        await self.compute(_ARRIVALS, [True], [0], Priority.CONTROL, caller)

    # What the pool does.

    def look_soon(self) -> None:
        """Look at the queue in the loop's next turn, so that what comes in this one shares a batch."""
        if not self._looking and self.queue.anything_waits:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def note_activity(self) -> None:
        """Begin to count idle time anew."""
        self.last_activity = time.monotonic()

    def rate(self) -> float | None:
        """Return the tokens a second of all engines together, None where nothing was measured."""
        rates = [rate for engine in self._fleet.members if (rate := engine.meter.rough_rate()) is not None]
        return sum(rates) if rates else None

    def refuse_waiting(self, error: Error) -> None:
        """End every call that waits with ``error``."""
        for call in self.queue.drop_all():
            self._fail(call, error)

    # Everything below runs in callbacks and in the batches' tasks.

    def _workers(self) -> list[Worker]:
        members = [
            each
            for each in self._fleet.members
            if each.ready and each.client is not None and each.client not in self._gone
        ]
        if self._fleet.alike:
            return [Worker(engine, engine.width) for engine in members]
        now = time.monotonic()
        return [Worker(engine, engine.width, engine.meter.rate(now)) for engine in members]

    async def _run_here(self, call: _Call, batch: Batch, slot: WorkerSlot) -> None:
        """Compute a whole call in its own task."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._batches[task] = batch, slot
        try:
            outcome = await self._run(batch, slot)
        except asyncio.CancelledError:
            slot.end()
            # Its time is over, unless somebody else has cancelled it too.
            if not call.done.done() or task.uncancel():
                raise
            return  # the error is in ``done``
        finally:
            del self._batches[task]
            self._cancelled.discard(task)
        self._hand_out(batch, slot, outcome)

    def _look(self) -> None:
        """Do what the queue says."""
        self._looking = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now, fleet = time.monotonic(), self._fleet
        try:
            effects = self.queue.advance(
                now, self._workers(), fleet.policy, loaded=fleet.loaded, hopeless=fleet.hopeless
            )
            for call in effects.overdue:
                self._fail(call, fleet.not_ready())
            if effects.load:
                fleet.load_soon()
        except Exception as error:
            self._report_defect(error)
            return
        for batch in effects.start:
            if (slot := self._try_send(batch, now)) is not None:
                task = asyncio.get_running_loop().create_task(self._run(batch, slot), name="batch")
                self._batches[task] = batch, slot
                task.add_done_callback(self._note_end)
        if effects.look_at is not None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(max(0.0, effects.look_at - now), self._look)

    def _report_defect(self, error: Exception) -> None:
        """End all calls: a defect of ours must not leave callers waiting."""
        _LOG.error("the queue: defect", exc_info=error)
        for each in [*self._calls]:
            self._fail(each, InternalError(f"the queue failed: {type(error).__name__}: {error}"))

    def _try_send(self, batch: Batch, now: float) -> WorkerSlot | None:
        try:
            return self._send(batch, now)
        except Exception as error:  # the boundary of the queue
            self.queue.finish(batch)
            self._report_defect(error)
            return None

    def _send(self, batch: Batch, now: float) -> WorkerSlot:
        """Note that a batch is sent, and take its place at the engine."""
        items: dict[_Call, int] = {}
        for item in batch.items:
            call = item.call
            assert isinstance(call, _Call)  # noqa: S101
            items[call] = items.get(call, 0) + 1
        for call, count in items.items():
            call.work.note_wait(call.priority, now - call.began, count)
            if call.caller.sent is None:
                call.caller.sent = now
                call.caller.queue_seconds = now - call.began
        return WorkerSlot(self, batch, batch.worker)

    async def _run(self, batch: Batch, slot: WorkerSlot) -> Sequence[Any] | _Lost:
        try:
            payloads = [item.payload for item in batch.items]
            results = await batch.work.compute(slot, payloads, [item.tokens for item in batch.items])
            if len(results) != len(payloads):
                raise InternalError(f"{len(results)} results were made of {len(payloads)} requests")
            return results
        except EngineLostError as error:
            return await self._find_loss(slot, error)
        except Error as error:
            return [error] * len(batch.items)
        except Exception as error:  # the boundary of a batch: a defect must reach the callers as an error
            _LOG.exception("a batch: defect")
            return [InternalError(f"a call failed: {type(error).__name__}: {error}")] * len(batch.items)

    async def _find_loss(self, slot: WorkerSlot, error: EngineLostError) -> _Lost:
        """Return how the engine was lost, once its own task knows; until then it gets nothing more."""
        client, engine = slot.client, slot.engine
        slot.end()
        if client is None:
            return _Lost(error, EngineLoss.INNOCENT)
        self._gone.add(client)
        try:
            ended = await engine.was_ended(client)
        except asyncio.CancelledError:
            self._excuse(engine, client)  # who leaves meanwhile must not make it the engine's own death
            raise
        finally:
            self._gone.discard(client)
            self.look_soon()
        if ended or isinstance(error, EngineUnreachedError):
            return _Lost(error, EngineLoss.INNOCENT)
        self._excuse(engine, client)
        return _Lost(error, EngineLoss.DEATH)

    def _excuse(self, engine: Backend, client: EngineClient) -> None:
        """Let a death that a request may have caused use up no restart, unless engines do nothing but die:
        then they are to blame, whatever they are asked."""
        if client not in self._excused:
            self._excused.add(client)
            self._excused_in_a_row += 1
        if self._excused_in_a_row <= _MOST_EXCUSED:
            engine.excuse_death(client)

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        """Hand out the results, unless the task was cancelled: then nobody waits for any of them."""
        batch, slot = self._batches.pop(task)
        self._cancelled.discard(task)
        if task.cancelled():
            slot.end()
        else:
            self._hand_out(batch, slot, task.result())

    def _hand_out(self, batch: Batch, slot: WorkerSlot, outcome: Sequence[Any] | _Lost) -> None:
        """Give the results to their calls, or take the items of a lost engine back."""
        if isinstance(outcome, _Lost):
            self._judge(batch, outcome)
        else:
            slot.end_computing()
            # That tokens were counted says nothing of an engine that dies of every text.
            counts = self._excused_in_a_row and batch.priority is not Priority.CONTROL
            if counts and not all(isinstance(result, Error) for result in outcome):
                self._excused_in_a_row = 0
            for item, result in zip(batch.items, outcome, strict=True):
                self._deliver(item, result)
        self.look_soon()

    def _judge(self, batch: Batch, lost: _Lost) -> None:
        again: list[Item] = []
        for item in batch.items:
            if item.call not in self._calls:
                continue
            item.deaths += lost.loss is EngineLoss.DEATH
            if judge_loss(lost.loss, item.deaths, alone=batch.alone) is Resend.BLAMED:
                self._deliver(
                    item,
                    DeadlyRequestError(
                        "engines died while they computed this, the last one with nothing else",
                        cause=lost.error.message,
                        hint="do not send it again",
                    ),
                )
            else:
                again.append(item)
        self.queue.put_back(again, time.monotonic() + self._hold_seconds)

    def _deliver(self, item: Item, result: Any) -> None:
        call = item.call
        if not isinstance(call, _Call) or call not in self._calls:
            if not isinstance(result, Error):
                call.work.discard(result)
            return
        call.results[item.position] = result
        call.missing -= 1
        if call.missing == 0 or (call.stop_early and isinstance(result, Error)):
            self._forget(call)
            if not call.done.done():
                call.done.set_result(None)

    def _fail(self, call: PendingCall, error: Error) -> None:
        assert isinstance(call, _Call)  # noqa: S101
        self._forget(call)
        if not call.done.done():
            call.done.set_exception(error)

    def _watch_deadlines(self, end: float) -> None:
        """Look at the calls' deadlines at ``end``: one timer for all of them, set anew when it has rung."""
        if self._end_alarm is not None:
            self._end_alarm.cancel()
        self._next_end = end
        loop = asyncio.get_running_loop()
        self._end_alarm = loop.call_later(max(0.0, end - time.monotonic()), self._expire_calls)

    def _expire_calls(self) -> None:
        now, self._end_alarm, self._next_end = time.monotonic() + _TIMER_SECONDS, None, math.inf
        for call in [each for each in self._calls if each.end <= now]:
            seconds = call.caller.deadline.seconds
            self._fail(call, DeadlineError(f"there was no answer within {seconds:g} seconds"))
        if self._calls:
            self._watch_deadlines(min(call.end for call in self._calls))

    def _forget(self, call: _Call) -> None:
        """Drop a call's items, and end the batches in which nobody is interested any more."""
        if call not in self._calls:
            return
        self._calls.remove(call)
        if not call.missing:
            return
        self.queue.cancel(call)
        for task, (batch, _) in self._batches.items():
            # Once: a task may be the caller's own, which takes back one cancellation.
            if task not in self._cancelled and not any(item.call in self._calls for item in batch.items):
                self._cancelled.add(task)
                task.cancel()
        self.look_soon()
        if self.queue.idle:
            self._fleet.note_idle()
