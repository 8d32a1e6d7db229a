"""The queue without a clock or a socket: bounds, turns, fairness."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.proxy.admission import (
    Admission,
    Cost,
    FairQueue,
    QueueLimits,
    RateMeter,
    Ticket,
    estimate_tokens,
)
from llamafile_mgr.proxy.refusals import BusyError

ONE = Cost(1, 10)


def test_clients_take_turns() -> None:
    queue = FairQueue(QueueLimits(100, 10_000, active=1))
    running = queue.offer("greedy", ONE)
    assert running is not None
    assert running.started
    greedy = [queue.offer("greedy", ONE) for _ in range(5)]
    modest = queue.offer("modest", ONE)
    order = []
    while running is not None:
        started = queue.leave(running)
        running = started[0] if started else None
        order.append(running)
    assert order[:3] == [greedy[0], modest, greedy[1]]
    assert queue.items == queue.tokens == queue.active == queue.waiting == 0


def test_a_client_that_fills_the_queue_leaves_room() -> None:
    queue = FairQueue(QueueLimits(90, 10**9, active=1))
    taken = 0
    while queue.offer("greedy", ONE) is not None:
        taken += 1
    assert taken == 60
    assert queue.offer("modest", ONE) is not None


def test_tokens_bound_as_well_as_items() -> None:
    queue = FairQueue(QueueLimits(100, 100, active=1))
    assert queue.offer("a", Cost(1, 60)) is not None
    assert queue.offer("b", Cost(1, 60)) is None
    assert queue.offer("b", Cost(1, 30)) is not None


def test_what_is_larger_than_the_queue_runs_alone() -> None:
    queue = FairQueue(QueueLimits(10, 100, active=4))
    huge = queue.offer("a", Cost(1000, 10_000))
    assert huge is not None
    assert queue.offer("b", ONE) is None
    queue.leave(huge)
    assert queue.offer("b", ONE) is not None


ACTIONS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 30), st.booleans(), st.integers(0, 50)), max_size=60
)


@given(ACTIONS, st.integers(1, 4))
def test_nothing_is_lost_and_no_bound_is_broken(
    actions: list[tuple[str, int, bool, int]], active: int
) -> None:
    limits = QueueLimits(40, 400, active)
    queue, held = FairQueue(limits), list[Ticket]()
    for client, items, arrives, which in actions:
        if arrives or not held:
            ticket = queue.offer(client, Cost(items, items * 9))
            held += [ticket] if ticket is not None else []
        else:
            queue.leave(held.pop(which % len(held)))
        assert queue.items == sum(ticket.cost.items for ticket in held)
        assert queue.items <= max(limits.items, 30)
        assert queue.active == sum(ticket.started for ticket in held) <= active
        assert queue.active == min(active, len(held))
        assert queue.waiting == len(held) - queue.active
    while held:
        queue.leave(held.pop())
    assert (queue.items, queue.tokens, queue.active, queue.waiting) == (0, 0, 0, 0)


def test_retry_after_follows_the_measured_rate() -> None:
    meter = RateMeter()
    assert meter.rate() is None
    assert meter.retry_seconds(1000) == 1
    meter.note(100.0, 101.0, 50)
    meter.note(101.0, 102.0, 50)
    assert meter.rate() == 50
    assert meter.retry_seconds(1000) == 10
    assert meter.retry_seconds(10**9) == 120
    meter.note(500.0, 501.0, 7)
    assert meter.rate() == 7


def test_estimates_grow_with_the_text() -> None:
    assert estimate_tokens([]) == 0
    assert estimate_tokens(["x"]) == 2
    assert estimate_tokens(["x" * 300, "x" * 300]) == 204


async def test_a_cancelled_wait_gives_its_place_back() -> None:
    admission = Admission(QueueLimits(10, 1000, active=1))
    async with admission.turn("a", ONE):

        async def wait_for_turn() -> None:
            async with admission.turn("b", ONE):
                raise AssertionError("it had no turn yet")

        waiting = asyncio.create_task(wait_for_turn())
        await asyncio.sleep(0)
        assert admission.queue.waiting == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert admission.queue.waiting == 0
        with pytest.raises(BusyError, match="the queue is full"):
            async with admission.turn("b", Cost(100, 1)):
                pass
    assert (admission.queue.items, admission.queue.active) == (0, 0)
