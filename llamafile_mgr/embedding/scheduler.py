"""Where calls wait for the engine: groups are sent while engines have room.

Nothing waits for a clock: a text that finds an engine free is sent at once; texts share a group only when
they came together or had to wait anyway.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llamafile_mgr.embedding.batching import BatchPolicy, Group, Item, Lane, Queue
from llamafile_mgr.embedding.groups import Budget, ItemResult
from llamafile_mgr.errors import InternalError

__all__ = ["Runner", "Scheduler"]

_LOG = logging.getLogger("llamafile_mgr.embedding")


class Runner(Protocol):
    """Computes one group; ``groups.GroupRunner`` is one."""

    def run(
        self, texts: Sequence[str], tokens: Sequence[int], budget: Budget
    ) -> Coroutine[Any, Any, list[ItemResult]]:
        """Return one result per text, in order; errors are results."""


@dataclass(slots=True)
class _Call:
    """A caller that waits for its texts. ``stop_early``: the first error ends it. ``began``: when it came,
    on the monotonic clock."""

    items: tuple[Item, ...]
    lane: Lane
    budget: Budget
    stop_early: bool
    done: asyncio.Future[None]
    results: list[ItemResult | None]
    missing: int
    began: float


class Scheduler:
    """Queues texts for one pool. ``policy`` and ``replicas`` tell how groups are made for the engines that
    the pool has now, and how many of them can be asked.

    ``observe`` is told the lane, the seconds that texts of one call waited to be sent, and their number.
    """

    def __init__(
        self,
        runner: Runner,
        policy: Callable[[], BatchPolicy],
        replicas: Callable[[], int],
        observe: Callable[[Lane, float, int], None] = lambda *_: None,
    ) -> None:
        self._runner = runner
        self._policy = policy
        self._replicas = replicas
        self._observe = observe
        self._queue = Queue(policy())
        self._numbers = itertools.count()
        self._calls: dict[int, _Call] = {}
        self._groups: dict[asyncio.Task[list[ItemResult]], Group] = {}
        self._looking = False

    def depth(self, lane: Lane) -> int:
        """Return how many texts wait in ``lane``."""
        return self._queue.depth(lane)

    async def embed(
        self, texts: Sequence[str], tokens: Sequence[int], lane: Lane, budget: Budget, *, stop_early: bool
    ) -> list[ItemResult | None]:
        """Return the results in the texts' order; with ``stop_early`` None stands for what was not
        computed because another text had failed. Cancelling takes the texts that wait out of the queue."""
        if not texts:
            return []
        number = next(self._numbers)
        items = tuple(
            Item(number, position, text, count)
            for position, (text, count) in enumerate(zip(texts, tokens, strict=True))
        )
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        call = _Call(items, lane, budget, stop_early, done, [None] * len(items), len(items), began)
        self._calls[number] = call
        self._queue.add(lane, number, items)
        self._look_soon()
        try:
            await done
        finally:
            if call.missing:
                self._forget(number)
                self._look_soon()
        return call.results

    def _look_soon(self) -> None:
        """Look at the queue in the loop's next turn, so that what comes in this one shares a group."""
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Send groups while engines have room."""
        self._looking = False
        try:
            self._queue.policy = self._policy()
            while (group := self._queue.next_group(self._replicas())) is not None:
                self._send(group)
        except Exception as error:  # the boundary of the queue: a defect must not leave callers waiting
            _LOG.exception("the embedding queue: defect")
            for number, call in [*self._calls.items()]:
                if not call.done.done():
                    call.done.set_exception(InternalError(f"the embedding queue failed: {error}"))
                self._forget(number)

    def _deliver(self, item: Item, result: ItemResult) -> None:
        call = self._calls.get(item.call)
        if call is None:
            return
        call.results[item.position] = result
        call.missing -= 1
        if call.missing == 0:
            del self._calls[item.call]
        elif call.stop_early and result.error is not None:
            self._forget(item.call)
        else:
            return
        if not call.done.done():
            call.done.set_result(None)

    def _forget(self, number: int) -> None:
        """Drop a call's texts, and end the groups in which nobody is interested any more."""
        if self._calls.pop(number, None) is None:
            return
        self._queue.cancel(number)
        for task, group in self._groups.items():
            if not any(item.call in self._calls for item in group.items):
                task.cancel()

    def _send(self, group: Group) -> None:
        now = time.monotonic()
        texts: dict[int, int] = {}
        for item in group.items:
            texts[item.call] = texts.get(item.call, 0) + 1
        calls = [self._calls[number] for number in texts]
        for call, count in zip(calls, texts.values(), strict=True):
            self._observe(call.lane, now - call.began, count)
        budget = calls[0].budget
        if len(calls) > 1:
            budget = Budget(
                max(call.budget.ready_by for call in calls), max(call.budget.end for call in calls)
            )
        work = self._runner.run(
            [item.text for item in group.items], [item.tokens for item in group.items], budget
        )
        task = asyncio.get_running_loop().create_task(work, name="embedding group")
        self._groups[task] = group
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[list[ItemResult]]) -> None:
        """Hand out the results; also of a task that was cancelled before it had begun."""
        group = self._groups.pop(task)
        if task.cancelled():
            results = [ItemResult(error=InternalError("cancelled"))] * len(group.items)
        elif (error := task.exception()) is not None:
            # A defect while computing must reach the callers as an error.
            _LOG.error("embedding group: defect", exc_info=error)
            failed = InternalError(f"the embedding of a text failed: {type(error).__name__}: {error}")
            results = [ItemResult(error=failed)] * len(group.items)
        else:
            results = task.result()
        self._queue.finish(group)
        for item, result in zip(group.items, results, strict=True):
            self._deliver(item, result)
        self._look_soon()
