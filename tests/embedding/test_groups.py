"""One group on an engine that fails in every way: neighbours are answered, culprits named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafile_mgr.embedding.groups import Budget, GroupRunner, ItemResult
from llamafile_mgr.embedding.requests import EmbedRequest
from llamafile_mgr.embedding.service import Embedder
from llamafile_mgr.engines.families import Family
from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.errors import EngineError, InputTooLongError, NotReadyError
from tests.embedding.stub_pool import (
    DEADLY,
    NAN,
    REFUSED,
    TOO_LONG,
    ZERO,
    StubClient,
    StubEngine,
    StubPool,
    count_tokens,
    make_plan,
    reply,
    vector_of,
)

FAULTS = {
    NAN: (EngineError, "not finite"),
    ZERO: (EngineError, "a zero vector"),
    REFUSED: (EngineError, "500: cannot compute this"),
    TOO_LONG: (InputTooLongError, "too large to process"),
    DEADLY: (EngineError, "engines died"),
}


WAIT_SECONDS = 5.0


async def run(pool: StubPool, texts: Sequence[str], seconds: float = 5.0) -> list[ItemResult]:
    end = time.monotonic() + seconds
    return await GroupRunner(pool, wait_seconds=WAIT_SECONDS).run(
        texts, [count_tokens(text) for text in texts], Budget(end, end)
    )


@settings(deadline=None)
@given(st.lists(st.sampled_from(["good", *FAULTS]), min_size=1, max_size=12))
def test_each_text_gets_what_it_deserves(kinds: list[str]) -> None:
    if kinds.count(DEADLY) > 1:
        kinds = [kind for kind in kinds if kind != DEADLY] + [DEADLY]
    texts = [f"text {index} {kind}" for index, kind in enumerate(kinds)]
    results = asyncio.run(run(StubPool(), texts))
    for text, kind, result in zip(texts, kinds, results, strict=True):
        if kind == "good":
            assert result.vector is not None
            assert np.allclose(result.vector, vector_of(text), atol=1e-6)
        else:
            error, message = FAULTS[kind]
            assert result.vector is None
            assert type(result.error) is error
            assert message in str(result.error)


async def test_a_deadly_text_costs_few_engines() -> None:
    pool = StubPool()
    results = await run(pool, [f"text {n}" for n in range(31)] + [DEADLY])
    assert [result.error is None for result in results] == [True] * 31 + [False]
    assert pool.engines[0].deaths == 4  # the budget of restarts is eight


async def test_two_groups_that_lose_one_engine_do_not_blame_each_other() -> None:
    pool = StubPool()
    pool.engines[0].gate.clear()
    end = time.monotonic() + 5
    runner = GroupRunner(pool, wait_seconds=WAIT_SECONDS)
    groups = [[f"{name} {n}" for n in range(4)] for name in ("a", "b")]
    groups[1][2] += DEADLY
    tasks = [asyncio.create_task(runner.run(group, [3] * 4, Budget(end, end))) for group in groups]
    await asyncio.sleep(0.01)
    pool.engines[0].gate.set()
    first, second = await asyncio.gather(*tasks)
    assert all(result.error is None for result in first)
    assert [result.error is None for result in second] == [True, True, False, True]


async def test_a_group_whose_engine_is_killed_by_others_blames_no_text() -> None:
    pool = StubPool()
    engine = pool.engines[0]
    end = time.monotonic() + 5
    runner = GroupRunner(pool, wait_seconds=WAIT_SECONDS)
    task = asyncio.create_task(runner.run(["a", "b"], [3, 3], Budget(end, end)))
    for killed in range(1, 7):
        engine.gate.clear()
        for _ in range(400):
            if len(engine.groups) == killed:
                break
            await asyncio.sleep(0.005)
        engine.end()
        engine.gate.set()
        await asyncio.sleep(0)
    results = await task
    assert [result.error for result in results] == [None, None]
    assert engine.groups == [["a", "b"]] * len(engine.groups)
    assert len(engine.groups) == 7


async def test_tokens_are_the_engines_own_or_shared_out() -> None:
    [alone] = await run(StubPool(), ["three words here"])
    assert alone.tokens == 5
    one, two = await run(StubPool(), ["a b c d", "a"])
    assert (one.tokens, two.tokens) == (None, None)
    assert (one.share, two.share) == (6, 3)


async def test_one_text_a_request() -> None:
    pool = StubPool(make_plan(family=Family.V1))
    [result] = await run(pool, ["a"])
    assert result.vector is not None


async def test_an_engine_that_never_comes() -> None:
    pool = StubPool()
    pool.engines[0].ready = False
    results = await run(pool, ["a", "b"], seconds=0.02)
    assert [type(result.error) for result in results] == [NotReadyError] * 2


async def test_a_width_that_changed_is_an_error() -> None:
    pool = StubPool(make_plan("all-minilm-l6-v2"))
    object.__setattr__(pool.plan, "dimensions", 384)
    [result] = await run(pool, ["a"])
    with pytest.raises(EngineError, match="16 dimensions where 384"):
        raise result.error or AssertionError


class LoadingEngine(StubEngine):
    """Says twice that it loads, as an engine does that was started anew, and then answers."""

    refusals = 2

    async def answer(self, client: StubClient, request: EngineRequest) -> EngineReply:
        if self.refusals:
            self.refusals -= 1
            error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
            return reply({"error": error}, 503)
        return await super().answer(client, request)


async def test_an_engine_that_loads_is_waited_for() -> None:
    pool = StubPool()
    pool.engines[0] = LoadingEngine(pool.plan)
    [result] = await run(pool, ["a"])
    assert result.error is None


async def test_a_dead_engine_that_is_still_taken_for_ready_blames_nobody() -> None:
    pool = StubPool()
    engine = pool.engines[0]
    dead, engine.client = engine.client, None  # stopped, and its own task has yet to say so
    assert dead is not None
    call = asyncio.create_task(run(pool, ["a", "b"]))
    await asyncio.sleep(0.05)
    engine.client = StubClient(engine)
    assert [result.error for result in await call] == [None, None]


async def test_a_text_of_an_old_call_is_held_as_long_when_its_engine_dies() -> None:
    pool = StubPool()
    engine = pool.engines[0]
    engine.gate.clear()
    now = time.monotonic()
    runner = GroupRunner(pool, wait_seconds=WAIT_SECONDS)
    call = asyncio.create_task(runner.run(["a"], [3], Budget(now + 0.01, now + WAIT_SECONDS)))
    await asyncio.sleep(0.05)
    engine.end()
    engine.ready = False
    engine.gate.set()
    await asyncio.sleep(0.05)
    engine.ready = True
    assert [result.error for result in await call] == [None]


#: What engines of the classic family and of llamafiler answer to one text that they cannot serve, under
#: HTTP 200 or with a fixed 503 (shapes of their sources), and what a caller is told.
OLD_REPLIES = [
    (Family.V1, 200, b"null", "without a vector"),
    (Family.V1, 200, b'{"embedding": []}', "empty vector"),
    (Family.V1, 200, b'{"embedding": null}', "empty vector"),
    (Family.V1, 503, b"Service Unavailable", "never answers embeddings"),
    (
        Family.V2,
        200,
        b'{"embedding": [1.0], "tokens_used": 3, "tokens_provided": 9}',
        "read 3 of the text's 9",
    ),
    (Family.V2, 400, b"JSON missing content/prompt/input key", "answered 400"),
]


@pytest.mark.parametrize(("family", "status", "body", "message"), OLD_REPLIES)
async def test_failures_of_old_engines_stay_with_their_text(
    family: Family, status: int, body: bytes, message: str
) -> None:
    class OldEngine(StubEngine):
        async def answer(self, client: StubClient, request: EngineRequest) -> EngineReply:
            if b"bad" in (request.body or b""):
                kind = "text/plain" if status == 503 else "application/json"
                return EngineReply(status, kind, body)
            return await super().answer(client, request)

    pool = StubPool(make_plan(family=family))
    pool.engines[0] = OldEngine(pool.plan)
    embedder = Embedder(pool, wait_seconds=5)
    result = await embedder.embed(EmbedRequest(("good", "bad", "fine"), keep_going=True))
    assert [outcome.error is None for outcome in result.outcomes] == [True, False, True]
    assert message in str(result.outcomes[1].error)
    with pytest.raises(EngineError, match="text 1: "):
        await embedder.embed(EmbedRequest(("good", "bad", "fine")))
