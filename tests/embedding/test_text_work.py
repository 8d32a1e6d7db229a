"""One batch on an engine that fails in every way: neighbours are answered, culprits named."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafile_mgr.embedding.embed_counters import EmbedderStats
from llamafile_mgr.embedding.embedder import Embedder
from llamafile_mgr.embedding.requests import EmbedRequest
from llamafile_mgr.embedding.text_work import TextWork
from llamafile_mgr.embedding.vectors import TextVector
from llamafile_mgr.engines.families import Family
from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.errors import (
    DeadlyRequestError,
    EngineError,
    Error,
    InputTooLongError,
    NotReadyError,
)
from llamafile_mgr.supervisor.calls import Caller, Deadline, Priority
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
    DEADLY: (DeadlyRequestError, "engines died"),
}


async def run(
    pool: StubPool, texts: Sequence[str], seconds: float = 5.0, ready_seconds: float = 5.0
) -> list[TextVector | Error]:
    tokens = [count_tokens(text) for text in texts]
    caller = Caller("", Deadline.after(ready_seconds, seconds))
    work = TextWork(EmbedderStats())
    return await pool.calls.compute(work, texts, tokens, Priority.BULK, caller, stop_early=False)


def good(results: Sequence[TextVector | Error]) -> list[bool]:
    return [isinstance(result, TextVector) for result in results]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["good", *FAULTS]), min_size=1, max_size=12))
def test_each_text_gets_what_it_deserves(kinds: list[str]) -> None:
    texts = [f"text {index} {kind}" for index, kind in enumerate(kinds)]

    async def play() -> list[TextVector | Error]:
        return await run(StubPool(), texts)

    for text, kind, result in zip(texts, kinds, asyncio.run(play()), strict=True):
        if kind == "good":
            assert isinstance(result, TextVector)
            assert np.allclose(result.vector, vector_of(text), atol=1e-6)
        else:
            error, message = FAULTS[kind]
            assert type(result) is error
            assert message in str(result)


async def test_a_deadly_text_costs_two_engines() -> None:
    pool = StubPool()
    results = await run(pool, [f"text {n}" for n in range(31)] + [DEADLY])
    assert good(results) == [True] * 31 + [False]
    assert pool.engines[0].deaths == len(pool.engines[0].excused) == 2


async def test_two_batches_that_lose_one_engine_do_not_blame_each_other() -> None:
    pool = StubPool(make_plan(family=Family.V2, slots=8))
    pool.engines[0].gate.clear()
    batches = [[f"{name} {n}" for n in range(4)] for name in ("a", "b")]
    batches[1][2] += DEADLY
    tasks = [asyncio.create_task(run(pool, texts)) for texts in batches]
    await asyncio.sleep(0.01)
    assert pool.engines[0].in_flight == 8
    pool.engines[0].gate.set()
    first, second = await asyncio.gather(*tasks)
    assert good(first) == [True] * 4
    assert good(second) == [True, True, False, True]


async def test_suspects_are_alone_with_their_engine() -> None:
    pool = StubPool(replicas=2)
    culprit = asyncio.create_task(run(pool, [DEADLY, "a", "b"]))
    others = [asyncio.create_task(run(pool, [f"other {n}"])) for n in range(20)]
    assert good(await culprit) == [False, True, True]
    assert [good(each) for each in await asyncio.gather(*others)] == [[True]] * 20
    assert sum(engine.deaths for engine in pool.engines) == 2
    alone = [group for group in pool.groups if DEADLY in group]
    assert sorted(map(len, alone))[0] == 1


async def test_a_batch_whose_engine_is_killed_by_others_blames_no_text() -> None:
    pool = StubPool()
    engine = pool.engines[0]
    task = asyncio.create_task(run(pool, ["a", "b"]))
    for killed in range(1, 7):
        engine.gate.clear()
        for _ in range(400):
            if len(engine.groups) == killed:
                break
            await asyncio.sleep(0.005)
        engine.kill()
        engine.gate.set()
        await asyncio.sleep(0)
    assert good(await task) == [True, True]
    assert engine.groups == [["a", "b"]] * 7
    assert not engine.excused


async def test_tokens_are_the_engines_own_or_shared_out() -> None:
    [alone] = await run(StubPool(), ["three words here"])
    assert isinstance(alone, TextVector)
    assert alone.tokens == 5
    one, two = await run(StubPool(), ["a b c d", "a"])
    assert isinstance(one, TextVector)
    assert isinstance(two, TextVector)
    assert (one.tokens, two.tokens) == (None, None)
    assert (one.share, two.share) == (6, 3)


async def test_one_text_a_request() -> None:
    assert good(await run(StubPool(make_plan(family=Family.V1)), ["a"])) == [True]


async def test_an_engine_that_never_comes() -> None:
    pool = StubPool()
    pool.engines[0].ready = False
    with pytest.raises(NotReadyError):
        await run(pool, ["a", "b"], seconds=1, ready_seconds=0.02)
    assert pool.calls.queue.idle


async def test_a_width_that_changed_is_an_error() -> None:
    pool = StubPool(make_plan("all-minilm-l6-v2"))
    object.__setattr__(pool.plan, "dimensions", 384)
    [result] = await run(pool, ["a"])
    assert isinstance(result, EngineError)
    assert "16 dimensions where 384" in str(result)


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
    assert good(await run(pool, ["a"])) == [True]


async def test_a_dead_engine_that_is_still_taken_for_ready_blames_nobody() -> None:
    pool = StubPool()
    engine = pool.engines[0]
    engine.client = None  # stopped, and its own task has yet to say so
    call = asyncio.create_task(run(pool, ["a", "b"]))
    await asyncio.sleep(0.05)
    engine.client = StubClient(engine)
    pool.calls.look_soon()
    assert good(await call) == [True, True]
    assert engine.groups == [["a", "b"]]


async def test_a_text_of_an_old_call_is_held_as_long_when_its_engine_dies() -> None:
    pool = StubPool()
    engine = pool.engines[0]
    engine.gate.clear()
    call = asyncio.create_task(run(pool, ["a"], ready_seconds=0.01))
    await asyncio.sleep(0.05)
    engine.kill()
    engine.ready = False
    engine.gate.set()
    await asyncio.sleep(0.05)
    engine.ready = True
    pool.calls.look_soon()
    assert good(await call) == [True]


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
    embedder = Embedder(pool.as_pool())
    result = await embedder.embed(EmbedRequest(("good", "bad", "fine"), keep_going=True))
    assert [outcome.error is None for outcome in result.outcomes] == [True, False, True]
    assert message in str(result.outcomes[1].error)
    with pytest.raises(EngineError, match="text 1: "):
        await embedder.embed(EmbedRequest(("good", "bad", "fine")))
