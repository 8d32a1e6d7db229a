"""The whole room against a small pool: random mixes of calls, lanes, lengths and cancellations."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafile_mgr.embedding.embedder import Embedder
from llamafile_mgr.embedding.requests import EmbedRequest, InputType, Truncation
from llamafile_mgr.engines.families import Family
from llamafile_mgr.errors import (
    BusyError,
    DeadlineError,
    EngineError,
    InputTooLongError,
    NotReadyError,
    RequestError,
)
from llamafile_mgr.supervisor.calls import BatchPolicy, Caller, Deadline
from llamafile_mgr.supervisor.pool import make_policy
from llamafile_mgr.supervisor.queue import QueueLimits
from tests.embedding.stub_pool import (
    DEADLY,
    NAN,
    REFUSED,
    WIDTH,
    StubPool,
    count_tokens,
    make_plan,
    vector_of,
)

POLICY = BatchPolicy(batch_tokens=40, batch_texts=4, bulk_batches=1)


def make(pool: StubPool | None = None, **options: object) -> Embedder:
    return Embedder(
        (pool or StubPool(policy=POLICY)).as_pool(),
        wait_seconds=5,
        deadline_seconds=5,
        **options,  # type: ignore[arg-type]
    )


@dataclass
class Call:
    """What one caller sends, and after how many turns of the loop it gives up, if it does."""

    words: list[int]
    query: bool
    start: int
    gives_up: int | None


CALLS = st.lists(
    st.builds(
        Call,
        st.lists(st.integers(1, 20), min_size=1, max_size=12),
        st.booleans(),
        st.integers(0, 20),
        st.one_of(st.none(), st.none(), st.integers(0, 30)),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=150)
@given(CALLS, st.integers(1, 3), st.booleans())
def test_random_mixes(calls: list[Call], replicas: int, single_text_family: bool) -> None:
    asyncio.run(play(calls, replicas, Family.V1 if single_text_family else Family.V10))


async def play(calls: list[Call], replicas: int, family: Family) -> None:
    policy = None if family is Family.V1 else POLICY
    pool = StubPool(make_plan(family=family), replicas, policy=policy)
    embedder = make(pool)
    finished: list[tuple[Call, list[str]]] = []
    counted: dict[int, int] = {}

    async def call_once(number: int, call: Call) -> None:
        for _ in range(call.start):
            await asyncio.sleep(0)
        texts = [f"{number}-{n} " + "w " * words for n, words in enumerate(call.words)]
        kind = InputType.QUERY if call.query else InputType.DOCUMENT
        work = asyncio.create_task(embedder.embed(EmbedRequest(tuple(texts), kind)))
        if call.gives_up is not None:
            for _ in range(call.gives_up):
                await asyncio.sleep(0)
            work.cancel()
        try:
            result = await work
        except asyncio.CancelledError:
            return
        assert np.allclose(result.vectors, [vector_of(text) for text in texts], atol=1e-6)
        assert len(result.outcomes) == len(texts)
        counted[number] = result.prompt_tokens
        finished.append((call, texts))

    await asyncio.gather(*(call_once(number, call) for number, call in enumerate(calls)))
    assert len(finished) >= sum(call.gives_up is None for call in calls)
    sent = Counter(text for group in pool.groups for text in group)
    for _, texts in finished:
        assert all(sent[text] == 1 for text in texts)  # none lost, none doubled
    for group in pool.groups:
        assert len(group) <= (1 if family is Family.V1 else POLICY.batch_texts)
    if family is Family.V10 and len(finished) == len(calls):  # shares of groups add up to the whole
        whole = sum(count_tokens(text) for _, texts in finished for text in texts)
        assert abs(sum(counted.values()) - whole) <= len(calls)
    depth = embedder.stats().queue_depth
    assert depth == {"query": 0, "bulk": 0}
    for engine in pool.engines:
        assert engine.in_flight == 0


async def start(embedder: Embedder, *requests: EmbedRequest) -> list[asyncio.Task[object]]:
    """Start calls in order and let them reach the queue."""
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(embedder.embed(request)))
        for _ in range(10):
            await asyncio.sleep(0)
    return tasks  # type: ignore[return-value]


async def test_a_lone_call_is_sent_at_once() -> None:
    pool = StubPool(policy=POLICY)
    [call] = await start(make(pool), EmbedRequest(("a",)))
    assert pool.groups == [["a"]]
    await call


async def test_calls_that_wait_share_a_group() -> None:
    pool = StubPool(policy=POLICY)
    pool.engines[0].gate.clear()
    calls = await start(make(pool), *(EmbedRequest((f"text {n}",)) for n in range(10)))
    assert pool.groups == [["text 0"], ["text 1"]]  # what may be under way; the others wait
    pool.engines[0].gate.set()
    await asyncio.gather(*calls)
    assert [len(group) for group in pool.groups] == [1, 1, 4, 4]


async def test_a_query_passes_a_bulk_job() -> None:
    pool = StubPool(policy=POLICY)
    engine = pool.engines[0]
    engine.gate.clear()
    embedder = make(pool)
    [bulk] = await start(embedder, EmbedRequest(tuple(f"document {n}" for n in range(200))))
    assert len(engine.groups) == 1
    [query] = await start(embedder, EmbedRequest(("a question",)))
    assert engine.groups[1] == ["a question"]  # already with the engine, behind one group
    engine.gate.set()
    await query
    assert not bulk.done()
    assert len(engine.groups) <= 4
    await bulk
    assert embedder.stats().batches == 51


async def test_a_query_in_many_parts_passes_too() -> None:
    pool = StubPool(policy=POLICY)
    pool.engines[0].gate.clear()
    embedder = make(pool)
    bulk, query = await start(
        embedder,
        EmbedRequest(tuple(f"document {n}" for n in range(100))),
        EmbedRequest(tuple(f"question {n}" for n in range(8)), InputType.QUERY),
    )
    pool.engines[0].gate.set()
    await query
    assert len(pool.groups) <= 6
    await bulk


async def test_a_caller_that_leaves_takes_its_texts_along() -> None:
    pool = StubPool(policy=POLICY)
    pool.engines[0].gate.clear()
    embedder = make(pool)
    gone, kept = await start(
        embedder,
        EmbedRequest(tuple(f"gone {n}" for n in range(50))),
        EmbedRequest(tuple(f"kept {n}" for n in range(3))),
    )
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    pool.engines[0].gate.set()
    await kept
    assert sum(text.startswith("gone") for group in pool.groups for text in group) <= 8
    assert pool.engines[0].in_flight == 0


async def test_equal_texts_are_computed_once() -> None:
    pool = StubPool(policy=POLICY)
    embedder = make(pool)
    result = await embedder.embed(EmbedRequest(("a", "b", "a", "a")))
    assert sorted(text for group in pool.groups for text in group) == ["a", "b"]
    assert np.array_equal(result.vectors[0], result.vectors[3])
    assert embedder.stats().deduplicated == 2


async def test_the_first_bad_text_is_named_and_ends_the_call() -> None:
    embedder = make()
    with pytest.raises(EngineError, match="text 3: the engine gave numbers that are not finite"):
        await embedder.embed(EmbedRequest(("a", "b", "c", NAN)))


async def test_keep_going_answers_the_rest() -> None:
    pool = StubPool(policy=POLICY)
    texts = ("a", NAN, "b", REFUSED, "x " * 200, "c", DEADLY)
    embedder = make(pool)
    result = await embedder.embed(EmbedRequest(texts, keep_going=True))
    errors = [outcome.error for outcome in result.outcomes]
    assert [error is not None for error in errors] == [False, True, False, True, True, False, True]
    assert np.isnan(result.vectors).all(axis=1).tolist() == [error is not None for error in errors]
    assert isinstance(errors[4], InputTooLongError)
    assert "text 4 has 202 tokens, more than the 64" in str(errors[4])
    assert embedder.stats().failed == 4


async def test_nobody_waits_longer_than_a_model_may_take_to_come() -> None:
    pool = StubPool(policy=POLICY)
    pool.engines[0].ready = False
    embedder = Embedder(pool.as_pool(), wait_seconds=0.05)
    calls = [embedder.embed(EmbedRequest((f"{n}",) * 9, keep_going=n % 2 == 0)) for n in range(5)]
    errors = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert [type(error) for error in errors] == [NotReadyError] * 5


async def test_a_deadline_frees_the_engine() -> None:
    pool = StubPool(policy=POLICY)
    pool.engines[0].gate.clear()
    embedder = make(pool)
    with pytest.raises(DeadlineError, match=r"no answer within 0\.05 seconds"):
        await embedder.embed(EmbedRequest(("a",)), Caller("", Deadline.after(0.05, 0.05)))
    await asyncio.sleep(0.01)
    assert pool.engines[0].in_flight == 0


async def test_chunks_stand_for_a_text_by_their_weighted_mean() -> None:
    pool = StubPool(make_plan(max_tokens=20))
    text = " ".join(f"word{n}" for n in range(50))
    result = await make(pool).embed(EmbedRequest((text, "short"), truncation=Truncation.CHUNK))
    outcome = result.outcomes[0]
    pieces = [t for group in pool.groups for t in group if t != "short"]
    assert (outcome.tokens, outcome.truncated, outcome.chunks) == (52, Truncation.CHUNK, len(pieces))
    mean = sum(vector_of(piece) * count_tokens(piece) for piece in pieces)
    assert np.allclose(result.vectors[0], mean / np.linalg.norm(mean), atol=1e-5)
    assert result.outcomes[1].truncated is None


@pytest.mark.parametrize("how", [Truncation.RIGHT, Truncation.LEFT])
async def test_cuts_are_reported(how: Truncation) -> None:
    pool = StubPool(make_plan(max_tokens=20))
    embedder = make(pool)
    text = " ".join(f"word{n}" for n in range(50))
    result = await embedder.embed(EmbedRequest((text,), truncation=how))
    [[sent]] = pool.groups
    kept = text.split()[:18] if how is Truncation.RIGHT else text.split()[-18:]
    assert sent.split() == kept
    assert (result.outcomes[0].tokens, result.outcomes[0].truncated) == (52, how)
    assert embedder.stats().truncated == {how.value: 1}
    assert embedder.stats().tokenize_seconds.count > 0


async def test_prompts_come_from_the_call_or_the_configuration() -> None:
    pool = StubPool(make_plan("mxbai-embed-large-v1", max_tokens=None))
    embedder = make(pool, input_type=InputType.QUERY)
    await embedder.embed(EmbedRequest(("a",)))
    await embedder.embed(EmbedRequest(("b",), InputType.DOCUMENT))
    prompt = "Represent this sentence for searching relevant passages: "
    assert pool.groups == [[f"{prompt}a"], ["b"]]


async def test_fewer_dimensions_only_where_the_model_was_trained_for_it() -> None:
    embedder = make(StubPool(make_plan("mxbai-embed-large-v1")))
    result = await embedder.embed(EmbedRequest(("a", NAN), dimensions=4, keep_going=True))
    whole = vector_of("a")[:4]
    assert np.allclose(result.vectors[0], whole / np.linalg.norm(whole), atol=1e-6)
    assert np.isnan(result.vectors[1]).all()
    for dimensions, message in ((0, "outside 1 to 16"), (WIDTH + 1, "outside 1 to 16")):
        with pytest.raises(RequestError, match=message):
            await embedder.embed(EmbedRequest(("a",), dimensions=dimensions))
    pool = StubPool(make_plan("all-minilm-l6-v2"))
    with pytest.raises(RequestError, match="cannot be cut to 4 dimensions"):
        await make(pool).embed(EmbedRequest(("a",), dimensions=4))
    assert pool.groups == []
    await make(pool).embed(EmbedRequest(("a",), dimensions=WIDTH))


def test_engines_that_take_one_text_get_as_many_requests_as_slots() -> None:
    assert make_policy(make_plan(family=Family.V2, slots=3)).bulk_batches == 3
    assert make_policy(make_plan(family=Family.V1)).batch_texts == 1
    assert make_policy(make_plan()) == BatchPolicy()


def test_a_gpu_gets_a_second_group_of_bulk() -> None:
    plan = make_plan()
    for word, groups in ((None, 1), ("disable", 1), ("nvidia", 2)):
        assert make_policy(replace(plan, settings=replace(plan.settings, gpu=word))).bulk_batches == groups


async def test_counters() -> None:
    embedder = make()
    await embedder.embed(EmbedRequest(("a b", "c")))
    stats = embedder.stats()
    assert (stats.calls, stats.texts, stats.tokens, stats.batches, stats.failed) == (1, 2, 7, 1, 0)
    assert (stats.engine_seconds.count, stats.total_seconds.count) == (1, 1)


async def test_half_a_surrogate_pair_is_refused_by_index() -> None:
    pool = StubPool(policy=POLICY)
    with pytest.raises(RequestError, match="text 1 is no Unicode text"):
        await make(pool).embed(EmbedRequest(("é", "\ud800")))
    assert pool.groups == []


async def test_a_full_queue_refuses_and_empties_again() -> None:
    pool = StubPool(policy=POLICY, limits=QueueLimits(8, 10_000))
    pool.engines[0].gate.clear()
    embedder = make(pool)
    [held] = await start(embedder, EmbedRequest(tuple(f"text {n}" for n in range(8))))
    with pytest.raises(BusyError, match="the queue is full: 8 texts"):
        await embedder.embed(EmbedRequest(("one more",)))
    pool.engines[0].gate.set()
    await held
    assert (pool.calls.queue.items, pool.calls.queue.tokens, pool.calls.queue.idle) == (0, 0, True)
    await embedder.embed(EmbedRequest(("one more",)))
