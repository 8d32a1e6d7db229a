"""The packing core: bounds, order, turns, lanes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from llamafile_mgr.embedding.batching import BatchPolicy, Group, Item, Lane, Queue

POLICY = BatchPolicy(group_tokens=100, group_texts=5, bulk_groups=1, extra_groups=1, queries_in_a_row=2)


def add(queue: Queue, lane: Lane, call: int, *tokens: int) -> None:
    queue.add(lane, call, [Item(call, i, f"{call}.{i}", count) for i, count in enumerate(tokens)])


def drain(queue: Queue, replicas: int = 1) -> list[Group]:
    """Take groups one by one, each finished before the next."""
    groups = []
    while (group := queue.next_group(replicas)) is not None:
        groups.append(group)
        queue.finish(group)
    return groups


CALLS = st.lists(
    st.tuples(st.sampled_from(list(Lane)), st.lists(st.integers(1, 150), min_size=1, max_size=20)), max_size=8
)


@settings(deadline=None)
@given(CALLS, st.sets(st.integers(0, 7)))
def test_every_text_goes_out_once_in_groups_within_bounds(
    calls: list[tuple[Lane, list[int]]], cancelled: set[int]
) -> None:
    queue = Queue(POLICY)
    for number, (lane, tokens) in enumerate(calls):
        add(queue, lane, number, *tokens)
    for number in cancelled:
        queue.cancel(number)
    groups = drain(queue)
    for group in groups:
        tokens = [item.tokens for item in group.items]
        assert 1 <= len(tokens) <= POLICY.group_texts
        assert sum(tokens) <= POLICY.group_tokens or len(tokens) == 1
        assert tokens == sorted(tokens, reverse=True)
        assert {calls[item.call][0] for item in group.items} == {group.lane}
    sent = Counter((item.call, item.position) for group in groups for item in group.items)
    wanted = {
        (number, position)
        for number, (_, tokens) in enumerate(calls)
        if number not in cancelled
        for position in range(len(tokens))
    }
    assert sent == dict.fromkeys(wanted, 1)
    assert queue.idle


@settings(deadline=None)
@given(CALLS)
def test_queries_overtake_and_bulk_still_moves(calls: list[tuple[Lane, list[int]]]) -> None:
    queue = Queue(POLICY)
    for number, (lane, tokens) in enumerate(calls):
        add(queue, lane, number, *tokens)
    in_a_row = 0
    while True:
        waiting = {lane: queue.depth(lane) for lane in Lane}
        group = queue.next_group(1)
        if group is None:
            break
        if group.lane is Lane.BULK:
            assert waiting[Lane.QUERY] == 0 or in_a_row >= POLICY.queries_in_a_row
            in_a_row = 0
        else:
            assert waiting[Lane.BULK] == 0 or in_a_row < POLICY.queries_in_a_row
            in_a_row += 1
        queue.finish(group)


def test_groups_under_way_are_limited_by_replica() -> None:
    queue = Queue(POLICY)
    add(queue, Lane.BULK, 0, *[100] * 6)
    first = [queue.next_group(2), queue.next_group(2)]
    assert all(first)
    assert queue.next_group(2) is None
    add(queue, Lane.QUERY, 1, 100, 100, 100)
    queries = [queue.next_group(2), queue.next_group(2)]
    assert [group.lane for group in queries] == [Lane.QUERY] * 2  # type: ignore[union-attr]
    assert queue.next_group(2) is None
    for group in first:
        queue.finish(group)  # type: ignore[arg-type]
        assert queue.next_group(2) is None  # two queries went: bulk has its turn, and waits for their end
    queue.finish(queries[0])  # type: ignore[arg-type]
    assert queue.next_group(2).lane is Lane.BULK  # type: ignore[union-attr]
    assert queue.next_group(2).lane is Lane.QUERY  # type: ignore[union-attr]


def test_a_query_at_one_replica_holds_back_no_other() -> None:
    queue = Queue(POLICY)
    add(queue, Lane.BULK, 0, *[100] * 6)
    first, second = queue.next_group(2), queue.next_group(2)
    add(queue, Lane.QUERY, 1, 10)
    query = queue.next_group(2)
    assert first is not None
    assert second is not None
    assert query is not None
    assert query.place == first.place != second.place
    queue.finish(second)
    third = queue.next_group(2)
    assert third is not None
    assert (third.lane, third.place) == (Lane.BULK, second.place)
    queue.finish(first)
    assert queue.next_group(2) is None, "bulk would share the query's batch"
    queue.finish(query)
    assert queue.next_group(2).place == first.place  # type: ignore[union-attr]


def test_fewer_replicas_get_fewer_groups() -> None:
    queue = Queue(POLICY)
    add(queue, Lane.BULK, 0, *[100] * 6)
    groups = [queue.next_group(3) for _ in range(3)]
    assert queue.next_group(1) is None
    for group in groups[1:]:
        assert group is not None
        queue.finish(group)
    assert queue.next_group(1) is None
    queue.finish(groups[0])  # type: ignore[arg-type]
    assert queue.next_group(1) is not None


def test_calls_take_turns_and_share_groups() -> None:
    queue = Queue(POLICY)
    add(queue, Lane.BULK, 0, *[20] * 20)
    add(queue, Lane.BULK, 1, 20, 20)
    add(queue, Lane.BULK, 2, 20)
    groups = drain(queue)
    assert [item.call for item in groups[1].items] == [1, 1, 2, 0, 0]  # what came later waits for one group
    assert {item.call for group in groups[2:] for item in group.items} == {0}
