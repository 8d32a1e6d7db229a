"""The pool's queue without a clock or a socket: bounds, turns, packing, suspects, and what is to be done."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llamafile_mgr.supervisor.calls import Batch, BatchPolicy, Item, PendingCall, Priority, Weight
from llamafile_mgr.supervisor.queue import CallQueue, Effects, QueueLimits, Worker
from llamafile_mgr.supervisor.request_work import RequestWork
from llamafile_mgr.supervisor.resending import EngineLoss, Resend, judge_loss

#: Batches are as full as they may be: nothing is shared out.
POLICY = BatchPolicy(
    batch_tokens=100, batch_texts=5, bulk_batches=1, extra_batches=1, queries_in_a_row=2, least_share=100
)
ONE = Weight(1, 10)
WORK = RequestWork()
FOREVER = 1e9
TURNS = (Priority.QUERY, Priority.BULK)


def add(
    queue: CallQueue,
    priority: Priority,
    *tokens: int,
    client: str = "a",
    ready_by: float = FOREVER,
    work: RequestWork = WORK,
) -> PendingCall:
    call = PendingCall(work, client, priority, ready_by, FOREVER, 0.0)
    queue.add(call, [Item(call, at, f"text {at}", count) for at, count in enumerate(tokens)])
    return call


def workers(count: int) -> list[Worker]:
    return [Worker(number) for number in range(count)]


def advance(queue: CallQueue, engines: int = 1, *, now: float = 0.0, policy: BatchPolicy = POLICY) -> Effects:
    return queue.advance(now, workers(engines), policy, loaded=True)


def start(queue: CallQueue, engines: int = 1, policy: BatchPolicy = POLICY) -> list[Batch]:
    return list(advance(queue, engines, policy=policy).start)


def drain(queue: CallQueue) -> list[Batch]:
    """Take batches for one engine that has room for one at a time, each finished before the next."""
    narrow, batches = BatchPolicy(100, 5, 1, 0, 2), []
    while found := start(queue, policy=narrow):
        batches += found
        for batch in found:
            queue.finish(batch)
    return batches


# Admission.


def test_a_client_that_fills_the_queue_leaves_room() -> None:
    queue, taken = CallQueue(QueueLimits(90, 10**9)), 0
    while queue.admit("greedy", ONE):
        taken += 1
    assert taken == 60
    assert queue.admit("modest", ONE)


def test_tokens_bound_as_well_as_items() -> None:
    queue = CallQueue(QueueLimits(100, 100))
    assert queue.admit("a", Weight(1, 60))
    assert not queue.admit("b", Weight(1, 60))
    assert queue.admit("b", Weight(1, 30))


def test_what_is_larger_than_the_queue_is_taken_alone() -> None:
    queue = CallQueue(QueueLimits(10, 100))
    huge = Weight(1000, 10_000)
    assert queue.admit("a", huge)
    assert not queue.admit("b", ONE)
    queue.release("a", huge)
    assert queue.admit("b", ONE)


def test_without_limits_all_are_taken() -> None:
    queue = CallQueue()
    assert all(queue.admit("a", Weight(10**6, 10**9)) for _ in range(3))


ARRIVALS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 30), st.booleans(), st.integers(0, 50)), max_size=60
)


@given(ARRIVALS)
def test_no_bound_is_broken(arrivals: list[tuple[str, int, bool, int]]) -> None:
    queue = CallQueue(QueueLimits(40, 400))
    held: list[tuple[str, Weight]] = []
    for client, items, arrives, which in arrivals:
        weight = Weight(items, items * 9)
        if not arrives and held:
            queue.release(*held.pop(which % len(held)))
        elif queue.admit(client, weight):
            held.append((client, weight))
        assert queue.items == sum(weight.items for _, weight in held) <= 40
        assert queue.tokens == sum(weight.tokens for _, weight in held) <= 400
    for each in held:
        queue.release(*each)
    assert (queue.items, queue.tokens) == (0, 0)


# Packing and turns.

CALLS = st.lists(
    st.tuples(
        st.sampled_from(TURNS), st.sampled_from("abc"), st.lists(st.integers(1, 150), min_size=1, max_size=20)
    ),
    max_size=8,
)


@settings(deadline=None)
@given(CALLS, st.sets(st.integers(0, 7)))
def test_every_item_goes_out_once_in_batches_within_bounds(
    calls: list[tuple[Priority, str, list[int]]], cancelled: set[int]
) -> None:
    queue = CallQueue()
    added = [add(queue, priority, *tokens, client=client) for priority, client, tokens in calls]
    for number, call in enumerate(added):
        if number in cancelled:
            queue.cancel(call)
    batches = drain(queue)
    for batch in batches:
        tokens = [item.tokens for item in batch.items]
        assert 1 <= len(tokens) <= POLICY.batch_texts
        assert sum(tokens) <= POLICY.batch_tokens or len(tokens) == 1
        assert tokens == sorted(tokens, reverse=True)
        assert {item.call.priority for item in batch.items} == {batch.priority}
    sent = Counter((item.call, item.position) for batch in batches for item in batch.items)
    wanted = {
        (call, position)
        for number, call in enumerate(added)
        if number not in cancelled
        for position in range(len(calls[number][2]))
    }
    assert sent == dict.fromkeys(wanted, 1)
    assert queue.idle


@pytest.mark.parametrize(
    ("tokens", "engines", "batches"),
    [
        ([10] * 12, 1, [[10] * 10]),  # one engine: as much as it may have
        ([10] * 12, 2, [[10] * 6, [10] * 3]),  # what waits is shared anew for each batch
        ([10] * 40, 2, [[10] * 10, [10] * 10]),  # there is more than all can have
        ([90, 10, 10, 10], 2, [[90], [10, 10, 10]]),
        ([10, 10], 2, [[10, 10]]),  # not worth two requests
        ([10] * 9, 3, [[10] * 3, [10] * 3, [10] * 3]),
    ],
)
def test_engines_that_are_alike_share_what_is_left(
    tokens: list[int], engines: int, batches: list[list[int]]
) -> None:
    queue, policy = CallQueue(), BatchPolicy(batch_tokens=100, least_share=30)
    add(queue, Priority.BULK, *tokens)
    assert [[item.tokens for item in batch.items] for batch in start(queue, engines, policy)] == batches


def test_engines_of_different_speed_are_sent_whole_batches() -> None:
    queue, policy = CallQueue(), BatchPolicy(batch_tokens=100, least_share=30)
    add(queue, Priority.BULK, *[10] * 10)
    unlike = [Worker("near", rate=10.0), Worker("far", rate=1000.0)]
    [batch] = queue.advance(0.0, unlike, policy, loaded=True).start
    assert (batch.worker, len(batch.items)) == ("far", 10)


@settings(deadline=None)
@given(CALLS)
def test_queries_overtake_and_bulk_still_moves(calls: list[tuple[Priority, str, list[int]]]) -> None:
    queue, narrow, in_a_row = CallQueue(), BatchPolicy(100, 5, 1, 0, 2), 0
    for priority, client, tokens in calls:
        add(queue, priority, *tokens, client=client)
    while True:
        waiting = {priority: queue.depth(priority) for priority in TURNS}
        batches = start(queue, policy=narrow)
        if not batches:
            break
        [batch] = batches
        if batch.priority is Priority.BULK:
            assert waiting[Priority.QUERY] == 0 or in_a_row >= narrow.queries_in_a_row
            in_a_row = 0
        else:
            assert waiting[Priority.BULK] == 0 or in_a_row < narrow.queries_in_a_row
            in_a_row += 1
        queue.finish(batch)


@settings(deadline=None)
@given(
    st.sampled_from(Priority),
    st.lists(st.integers(1, 150), min_size=1, max_size=7),
    st.lists(st.tuples(st.sampled_from(Priority), st.integers(1, 3)), max_size=4),
    st.sampled_from([1, 5]),
)
def test_what_is_started_at_once_is_what_would_have_started(
    priority: Priority, tokens: list[int], before: list[tuple[Priority, int]], texts: int
) -> None:
    """Two queues in the same state, one asked the short way, one the long way."""
    policy = BatchPolicy(batch_tokens=100, batch_texts=texts, bulk_batches=2, control_batches=2)
    short, long = CallQueue(), CallQueue()
    for queue in (short, long):
        for each, count in before:
            add(queue, each, *[40] * count)
        start(queue, 2, policy)
    was_waiting = short.anything_waits
    call = PendingCall(WORK, "a", priority, FOREVER, FOREVER, 0.0)
    items = [Item(call, at, f"text {at}", count) for at, count in enumerate(tokens)]
    batch = short.start_at_once(items, sum(tokens), workers(2), policy)
    long.add(call, items)
    started = start(long, 2, policy)
    if batch is None:
        whole = len(started) == 1 and len(started[0].items) == len(items)
        assert was_waiting or not whole or (short.active and texts > 1)
        short.add(call, items)
        told = [(each.worker, each.tokens) for each in start(short, 2, policy)]
        assert told == [(each.worker, each.tokens) for each in started]
    else:
        [other] = started
        assert (batch.items, batch.worker, batch.tokens) == (other.items, other.worker, other.tokens)
        assert not short.anything_waits
        assert not long.anything_waits
    assert short._queries_in_a_row == long._queries_in_a_row


def test_batches_under_way_are_limited_by_engine() -> None:
    queue = CallQueue()
    add(queue, Priority.BULK, *[100] * 6)
    first = start(queue, 2)
    assert [batch.worker for batch in first] == [0, 1]
    add(queue, Priority.QUERY, 100, 100, 100)
    queries = start(queue, 2)
    assert [batch.priority for batch in queries] == [Priority.QUERY] * 2
    for batch in first:
        queue.finish(batch)
        assert not start(queue, 2)  # two queries went: bulk has its turn, and waits for their end
    queue.finish(queries[0])
    assert [batch.priority for batch in start(queue, 2)] == [Priority.BULK, Priority.QUERY]


def test_a_query_at_one_engine_holds_back_no_other() -> None:
    queue = CallQueue()
    add(queue, Priority.BULK, *[100] * 6)
    first, second = start(queue, 2)
    add(queue, Priority.QUERY, 10)
    [query] = start(queue, 2)
    assert query.worker == first.worker != second.worker
    queue.finish(second)
    [third] = start(queue, 2)
    assert (third.priority, third.worker) == (Priority.BULK, second.worker)
    queue.finish(first)
    assert not start(queue, 2), "bulk would share the query's batch"
    queue.finish(query)
    assert [batch.worker for batch in start(queue, 2)] == [first.worker]


def test_an_engine_with_others_behind_it_gets_as_many_batches() -> None:
    queue = CallQueue()
    add(queue, Priority.BULK, *[100] * 6)
    batches = queue.advance(0.0, [Worker("near"), Worker("far", width=3)], POLICY, loaded=True).start
    assert Counter(batch.worker for batch in batches) == {"near": 1, "far": 3}


def test_calls_take_turns_and_share_batches() -> None:
    queue = CallQueue()
    first, second, third = (add(queue, Priority.BULK, *[20] * count) for count in (20, 2, 1))
    batches = drain(queue)
    # What came later waits for one batch.
    assert [item.call for item in batches[1].items] == [second, second, third, first, first]
    assert {item.call for batch in batches[2:] for item in batch.items} == {first}


def test_clients_take_turns_whatever_number_of_calls_they_make() -> None:
    queue = CallQueue()
    one_each = BatchPolicy(batch_texts=1, bulk_batches=1)
    greedy = [add(queue, Priority.BULK, 20, client="greedy") for _ in range(5)]
    [batch] = start(queue, policy=one_each)
    modest = add(queue, Priority.BULK, 20, client="modest")
    order = []
    while True:
        order.append(batch.items[0].call)
        queue.finish(batch)
        if not (found := start(queue, policy=one_each)):
            break
        [batch] = found
    assert order == [greedy[0], greedy[1], modest, *greedy[2:]]


def test_only_like_work_shares_a_batch() -> None:
    queue = CallQueue()
    calls = [add(queue, Priority.BULK, 20, client=client, work=RequestWork()) for client in "ab"]
    assert [[item.call for item in batch.items] for batch in drain(queue)] == [[calls[0]], [calls[1]]]


def test_control_passes_everything_up_to_its_own_bound() -> None:
    queue = CallQueue()
    add(queue, Priority.BULK, *[100] * 3)
    for _ in range(10):
        add(queue, Priority.CONTROL, 1)
    counts = Counter(batch.priority for batch in start(queue))
    assert counts == {Priority.CONTROL: POLICY.control_batches, Priority.BULK: 1}


@pytest.mark.parametrize(
    ("loads", "chosen"),
    [
        ([(0, 100.0), (0, 1000.0)], 1),
        ([(1, 100.0), (8, 1000.0)], 1),
        ([(0, 100.0), (10, 1000.0)], 0),
        ([(2, 100.0), (29, 1000.0)], 0),
        ([(2, 100.0), (18, 1000.0)], 1),
        # Unknown counts as the others' average: it gets calls, and so a rate.
        ([(0, 100.0), (0, None)], 0),
        ([(1, 100.0), (0, None)], 1),
        ([(1, 100.0), (1, 300.0), (0, None)], 2),
        ([(0, 0.0), (0, 100.0)], 0),
    ],
)
def test_where_engines_differ_the_shortest_wait_decides(
    loads: list[tuple[int, float | None]], chosen: int
) -> None:
    queue = CallQueue()
    policy = BatchPolicy(batch_texts=1, bulk_batches=100, extra_batches=0)
    for number, (under_way, _) in enumerate(loads):
        add(queue, Priority.BULK, *[10] * under_way)
        assert len(queue.advance(0.0, [Worker(number)], policy, loaded=True).start) == under_way
    add(queue, Priority.BULK, 10)
    offered = [Worker(number, rate=rate) for number, (_, rate) in enumerate(loads)]
    [batch] = queue.advance(0.0, offered, policy, loaded=True).start
    assert batch.worker == chosen


# Waiting for engines.


def test_waiting_calls_load_an_unloaded_model() -> None:
    queue = CallQueue()
    assert queue.advance(0.0, [], POLICY, loaded=False) == Effects()
    add(queue, Priority.QUERY, 1)
    assert queue.advance(0.0, [], POLICY, loaded=False) == Effects(load=True)
    assert not queue.advance(0.0, [], POLICY, loaded=True).load


def test_calls_are_overdue_one_by_one_and_all_when_there_is_no_hope() -> None:
    queue = CallQueue()
    calls = [add(queue, Priority.QUERY, 1, 1, ready_by=at) for at in (10.0, 20.0, 30.0)]
    assert queue.advance(5.0, [], POLICY, loaded=True) == Effects(look_at=10.0)
    assert queue.advance(10.0, [], POLICY, loaded=True) == Effects(overdue=(calls[0],), look_at=20.0)
    assert queue.advance(10.0, [], POLICY, loaded=True, hopeless=True).overdue == tuple(calls[1:])
    assert queue.idle


def test_a_call_behind_a_busy_engine_is_not_overdue_at_once_when_the_engine_is_lost() -> None:
    queue = CallQueue()
    add(queue, Priority.BULK, 100)
    [batch] = start(queue)
    call = add(queue, Priority.BULK, 100, ready_by=10.0)
    call.hold_seconds = 10.0
    assert not advance(queue, now=100.0).start
    assert queue.advance(100.5, [], POLICY, loaded=True) == Effects(look_at=110.0)
    assert queue.advance(110.0, [], POLICY, loaded=True).overdue == (call,)
    queue.finish(batch)


# Losses.


@pytest.mark.parametrize(
    ("loss", "deaths", "alone", "outcome"),
    [
        (EngineLoss.INNOCENT, 0, False, Resend.AGAIN),
        (EngineLoss.INNOCENT, 1, True, Resend.ALONE),
        (EngineLoss.DEATH, 1, False, Resend.ALONE),
        (EngineLoss.DEATH, 1, True, Resend.ALONE),
        (EngineLoss.DEATH, 2, False, Resend.ALONE),
        (EngineLoss.DEATH, 2, True, Resend.BLAMED),
    ],
)
def test_the_rule_for_sending_again(loss: EngineLoss, deaths: int, alone: bool, outcome: Resend) -> None:
    assert judge_loss(loss, deaths, alone=alone) is outcome


def test_what_lost_an_ended_engine_is_first_in_line() -> None:
    queue = CallQueue()
    add(queue, Priority.BULK, *[50] * 4)
    [batch] = start(queue)
    add(queue, Priority.BULK, 50, client="b")
    queue.finish(batch)
    queue.put_back(batch.items, 0.0)
    [again] = start(queue)
    assert again.items == batch.items


def test_suspects_go_alone_one_in_the_whole_pool_and_hold_back_one_engine() -> None:
    queue = CallQueue()
    call = add(queue, Priority.BULK, *[50] * 4)
    first, second = start(queue, 2)
    queue.finish(first)
    for item in first.items:
        item.deaths = 1
    queue.put_back(first.items, 0.0)
    others = add(queue, Priority.BULK, *[50] * 8, client="b")
    batches = start(queue, 2)  # the idle engine gets the suspect, and nothing else
    assert [(batch.worker, len(batch.items), batch.alone) for batch in batches] == [(0, 1, True)]
    queue.finish(second)
    [good] = start(queue, 2)
    assert (good.worker, good.alone, good.items[0].call) == (1, False, others)
    queue.finish(batches[0])
    [suspect] = start(queue, 2)
    assert (suspect.worker, suspect.alone, suspect.items[0].call) == (0, True, call)
    assert not start(queue, 1)


def test_a_single_engine_is_emptied_for_a_suspect() -> None:
    queue = CallQueue()
    call = add(queue, Priority.BULK, 50)
    [batch] = start(queue)
    add(queue, Priority.QUERY, 10, client="b")
    [query] = start(queue)
    queue.finish(batch)
    batch.items[0].deaths = 1
    queue.put_back(batch.items, 0.0)
    add(queue, Priority.QUERY, 10, client="c")
    assert not start(queue)
    queue.finish(query)
    [suspect] = start(queue)
    assert (suspect.alone, suspect.items[0].call) == (True, call)
    assert not start(queue)
    queue.finish(suspect)
    assert len(start(queue)) == 1


def test_others_have_their_turn_between_two_suspects() -> None:
    queue = CallQueue()
    one_each = BatchPolicy(batch_texts=1, bulk_batches=2)
    add(queue, Priority.BULK, 50, 50)
    for batch in (lost := start(queue, policy=one_each)):
        queue.finish(batch)
        batch.items[0].deaths = 1
    queue.put_back([batch.items[0] for batch in lost], 0.0)
    add(queue, Priority.BULK, 50, 50, 50, client="b")
    order = []
    for _ in range(5):
        found = start(queue, policy=one_each)
        order.append([batch.alone for batch in found])
        for batch in found:
            queue.finish(batch)
    assert order == [[True], [False], [True], [False, False], []]


def test_cancelling_takes_suspects_out() -> None:
    queue = CallQueue()
    call = add(queue, Priority.BULK, 50)
    [batch] = start(queue)
    queue.finish(batch)
    batch.items[0].deaths = 1
    queue.put_back(batch.items, 0.0)
    assert queue.waiting == 1
    queue.cancel(call)
    assert queue.idle


class QueueMachine(RuleBasedStateMachine):
    """Any order of arrivals, ends, deaths and departures: nothing is lost, doubled or blamed wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = CallQueue()
        self.open: dict[tuple[PendingCall, int], str] = {}  # where each item is
        self.under_way: list[Batch] = []

    @rule(
        priority=st.sampled_from(list(Priority)),
        client=st.sampled_from("abc"),
        tokens=st.lists(st.integers(1, 150), min_size=1, max_size=6),
    )
    def arrive(self, priority: Priority, client: str, tokens: list[int]) -> None:
        call = add(self.queue, priority, *tokens, client=client)
        self.open.update({(call, at): "waits" for at in range(len(tokens))})

    @rule(engines=st.integers(0, 3))
    def send(self, engines: int) -> None:
        for batch in advance(self.queue, engines).start:
            for item in batch.items:
                assert self.open[item.call, item.position] == "waits"
                self.open[item.call, item.position] = "under way"
            there = [each for each in self.under_way if each.worker == batch.worker]
            assert not any(each.alone for each in there)
            assert not (batch.alone and there)
            self.under_way.append(batch)
        assert sum(batch.alone for batch in self.under_way) <= 1

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 50))
    def finish(self, which: int) -> None:
        batch = self.under_way.pop(which % len(self.under_way))
        self.queue.finish(batch)
        for item in batch.items:
            self.open.pop((item.call, item.position), None)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 50), loss=st.sampled_from(list(EngineLoss)))
    def lose(self, which: int, loss: EngineLoss) -> None:
        worker = self.under_way[which % len(self.under_way)].worker
        lost = [batch for batch in self.under_way if batch.worker == worker]
        for batch in lost:
            self.under_way.remove(batch)
            self.queue.finish(batch)
            again = []
            for item in batch.items:
                if (item.call, item.position) not in self.open:
                    continue
                item.deaths += loss is EngineLoss.DEATH
                if judge_loss(loss, item.deaths, alone=batch.alone) is Resend.BLAMED:
                    assert item.deaths == 2
                    assert len(lost) == 1, "something else was there"
                    del self.open[item.call, item.position]
                else:
                    again.append(item)
                    self.open[item.call, item.position] = "waits"
            self.queue.put_back(again, 0.0)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 50))
    def leave(self, which: int) -> None:
        call = list(self.open)[which % len(self.open)][0]
        self.queue.cancel(call)
        self.open = {key: place for key, place in self.open.items() if key[0] is not call}

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.waiting == sum(place == "waits" for place in self.open.values())
        assert self.queue.active == len(self.under_way)

    def teardown(self) -> None:
        """Whatever is left goes out once engines are there."""
        for _ in range(500):
            self.send(2)
            if not self.under_way:
                break
            while self.under_way:
                self.finish(0)
        assert not self.open
        assert self.queue.idle


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
