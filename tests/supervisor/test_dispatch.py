"""Calls on their way: those that leave, fail, wait for engines or run out of time, and what stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from llamafile_mgr.embedding.embed_counters import EmbedderStats
from llamafile_mgr.embedding.text_work import TextWork
from llamafile_mgr.engines.messages import EngineRequest
from llamafile_mgr.errors import (
    DeadlineError,
    DeadlyRequestError,
    EngineError,
    Error,
    InternalError,
    NotReadyError,
)
from llamafile_mgr.supervisor.calls import BatchPolicy, Caller, Deadline, Priority, Weight
from llamafile_mgr.supervisor.permits import WorkerSlot
from llamafile_mgr.supervisor.request_work import RequestWork
from tests.embedding.stub_pool import DEADLY, StubEngine, StubPool

POLICY = BatchPolicy(batch_texts=4)


class SlowWork(RequestWork):
    """Answers when its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.batches: list[list[str]] = []
        self.discarded: list[str] = []

    async def compute(
        self, slot: WorkerSlot, payloads: Sequence[Any], tokens: Sequence[int]
    ) -> Sequence[Any]:
        self.batches.append(list(payloads))
        await self.gate.wait()
        return [EngineError("broken") if "bad" in text else text for text in payloads]

    def discard(self, result: Any) -> None:
        self.discarded.append(result)


def caller(seconds: float = 5.0) -> Caller:
    return Caller("", Deadline.after(seconds, seconds))


def ask(pool: StubPool, work: SlowWork, *texts: str, stop_early: bool = True) -> asyncio.Task[list[Any]]:
    call = pool.calls.compute(work, texts, [3] * len(texts), Priority.BULK, caller(), stop_early=stop_early)
    return asyncio.create_task(call)


async def test_leaving_at_any_moment_takes_no_place_and_no_neighbour() -> None:
    for turns in range(8):
        pool, work = StubPool(policy=POLICY), SlowWork()
        leaving, staying = ask(pool, work, "a"), ask(pool, work, "b")
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        work.gate.set()
        assert await staying == ["b"]
        assert await ask(pool, work, "c") == ["c"]
        assert pool.calls.queue.idle


async def test_a_batch_that_nobody_waits_for_frees_its_place() -> None:
    for turns in range(8):
        pool, work = StubPool(policy=POLICY), SlowWork()
        leaving = ask(pool, work, "a")
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        work.gate.set()
        assert await ask(pool, work, "b") == ["b"]
        assert pool.calls.queue.idle


async def test_results_that_nobody_waits_for_are_let_go() -> None:
    pool, work = StubPool(policy=POLICY), SlowWork()
    pool.engines[0].ready = False
    leaving, staying = ask(pool, work, "a"), ask(pool, work, "b")
    await asyncio.sleep(0.01)
    pool.engines[0].ready = True
    pool.calls.look_soon()
    await asyncio.sleep(0.01)
    assert work.batches == [["a", "b"]]
    leaving.cancel()
    await asyncio.sleep(0)
    work.gate.set()
    assert await staying == ["b"]
    assert work.discarded == ["a"]


async def test_the_first_error_ends_a_call_unless_it_shall_go_on() -> None:
    pool, work = StubPool(policy=POLICY), SlowWork()
    work.gate.set()
    results = await ask(pool, work, "bad", *"abcdefgh")
    assert isinstance(results[0], EngineError)
    assert None in results
    results = await ask(pool, work, "bad", *"abcdefgh", stop_early=False)
    assert results[1:] == [*"abcdefgh"]


async def test_one_deadline_ends_what_waits_and_what_is_under_way() -> None:
    pool, work = StubPool(policy=POLICY), SlowWork()
    under_way = asyncio.create_task(
        pool.calls.compute(work, [*"abcdefghi"], [3] * 9, Priority.BULK, caller(0.05))
    )
    with pytest.raises(DeadlineError, match=r"0\.05 seconds"):
        await under_way
    await asyncio.sleep(0.01)
    assert pool.calls.queue.idle


async def test_a_call_without_engines_loads_them_once_and_hears_why_not() -> None:
    pool, work = StubPool(policy=POLICY), SlowWork()
    pool.engines = []
    call = ask(pool, work, "a")
    await asyncio.sleep(0.01)
    assert pool.loads == 1
    pool.calls.refuse_waiting(NotReadyError("there is no memory"))
    with pytest.raises(NotReadyError, match="no memory"):
        await call
    assert pool.calls.queue.idle


async def test_times_are_noted_with_the_caller() -> None:
    pool, work = StubPool(policy=POLICY), SlowWork()
    first, second = caller(), caller()
    calls = [
        asyncio.create_task(pool.calls.compute(work, [name], [3], Priority.BULK, each))
        for name, each in (("a", first), ("b", second))
    ]
    pool.engines[0].ready = False
    await asyncio.sleep(0.02)
    pool.engines[0].ready = True
    pool.calls.look_soon()
    await asyncio.sleep(0.02)
    work.gate.set()
    await asyncio.gather(*calls)
    for each in (first, second):
        assert each.queue_seconds >= 0.015
        assert each.engine_seconds >= 0.015


async def test_a_defect_while_computing_reaches_the_caller() -> None:
    class Broken(RequestWork):
        async def compute(
            self, slot: WorkerSlot, payloads: Sequence[EngineRequest], tokens: Sequence[int]
        ) -> Sequence[Any]:
            raise ZeroDivisionError

    pool = StubPool(policy=POLICY)
    [result] = await pool.calls.compute(Broken(), ["a"], [1], Priority.BULK, caller())
    assert isinstance(result, InternalError)
    assert pool.calls.queue.idle


async def test_small_requests_pass_everything_else() -> None:
    pool, work = StubPool(policy=POLICY), SlowWork()
    bulk = ask(pool, work, *"abcdefghijkl")
    await asyncio.sleep(0.01)
    await pool.calls.until_ready(caller())
    assert not bulk.done()
    work.gate.set()
    await bulk


async def test_a_permit_is_given_back_once() -> None:
    pool = StubPool(policy=POLICY)
    with pool.calls.admit(caller(), Weight(3, 30)) as permit:
        assert pool.calls.queue.items == 3
        permit.release()
    assert (pool.calls.queue.items, pool.calls.queue.tokens) == (0, 0)


async def test_engines_that_do_nothing_but_die_are_excused_no_more() -> None:
    pool = StubPool(policy=POLICY)
    engine = pool.engines[0]

    async def kill(times: int) -> None:
        for n in range(times):
            with pytest.raises(DeadlyRequestError):
                await embed(pool, f"{n} {DEADLY}")

    await kill(3)
    assert len(engine.excused) == engine.deaths == 6
    await embed(pool, "an honest text")
    await kill(4)
    assert len(engine.excused) == engine.deaths == 14
    await kill(2)
    assert (engine.deaths, len(engine.excused)) == (18, 14)


async def test_calls_that_expire_together_all_hear_it() -> None:
    pool, work = StubPool(policy=POLICY), SlowWork()

    async def ask_once(n: int) -> type[BaseException]:
        try:
            await pool.calls.compute(work, [f"{n}"], [3], Priority.QUERY, same)
        except BaseException as error:
            return type(error)
        raise AssertionError("it was answered")

    for _ in range(5):
        same = caller(0.03)
        assert {*await asyncio.gather(*map(ask_once, range(30)))} == {DeadlineError}
        assert pool.calls.queue.idle


async def test_a_defect_before_sending_keeps_no_place() -> None:
    pool, work = StubPool(policy=POLICY), SlowWork()
    work.gate.set()
    engine, begin = pool.engines[0], pool.engines[0].begin

    def fail(tokens: int) -> None:
        engine.begin = begin  # type: ignore[method-assign]
        raise ZeroDivisionError

    engine.begin = fail  # type: ignore[method-assign]
    with pytest.raises(InternalError):
        await pool.calls.compute(work, ["a"], [3], Priority.BULK, caller())
    assert pool.calls.queue.idle
    assert await ask(pool, work, "b") == ["b"]


async def test_too_few_results_are_an_error_of_every_call() -> None:
    class Short(RequestWork):
        async def compute(
            self, slot: WorkerSlot, payloads: Sequence[Any], tokens: Sequence[int]
        ) -> Sequence[Any]:
            return []

    pool = StubPool(policy=POLICY)
    results = await pool.calls.compute(Short(), ["a", "b"], [1, 1], Priority.BULK, caller(), stop_early=False)
    assert [type(result) for result in results] == [InternalError] * 2


async def test_who_leaves_during_the_diagnosis_does_not_make_the_death_the_engines() -> None:
    class Slow(StubEngine):
        async def was_ended(self, client: object) -> bool:
            await asyncio.sleep(30)
            return False

    pool = StubPool(policy=POLICY)
    pool.engines = [Slow(pool.plan)]
    call = asyncio.create_task(embed(pool, DEADLY))
    await asyncio.sleep(0.02)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert len(pool.engines[0].excused) == 1
    assert await embed(pool, "an honest text")


async def embed(pool: StubPool, text: str) -> Any:
    [result] = await pool.calls.compute(TextWork(EmbedderStats()), [text], [3], Priority.BULK, caller())
    if isinstance(result, Error):
        raise result
    return result


async def test_a_call_that_is_sent_at_once_ends_at_its_deadline_in_its_own_task() -> None:
    pool, work = StubPool(policy=POLICY), SlowWork()

    async def ask_and_go_on() -> str:
        with pytest.raises(DeadlineError):
            await pool.calls.compute(work, ["a"], [3], Priority.QUERY, caller(0.05))
        await asyncio.sleep(0.01)  # nothing of the cancellation is left
        return "went on"

    assert await asyncio.create_task(ask_and_go_on()) == "went on"
    assert pool.calls.queue.idle


async def test_cancelling_a_call_that_was_sent_at_once_frees_its_place() -> None:
    pool, work = StubPool(policy=POLICY), SlowWork()
    call = ask(pool, work, "a")
    await asyncio.sleep(0.01)
    assert work.batches == [["a"]]
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert pool.calls.queue.idle
    work.gate.set()
    assert await ask(pool, work, "b") == ["b"]
