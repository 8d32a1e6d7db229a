"""What a turn of a variant's engines is worth: every text of every lane counts."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest

from llamafile_mgr.benchmarking.tune_runs import VariantRunner
from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.supervisor.calls import BatchPolicy
from llamafile_mgr.supervisor.pool import Pool
from tests.embedding.stub_pool import StubClient, StubEngine, StubPool, make_plan


class SlowEngine(StubEngine):
    """Answers each request after a while, several at once."""

    texts = 0

    async def answer(self, client: StubClient, request: EngineRequest) -> EngineReply:
        await asyncio.sleep(0.02)
        reply = await super().answer(client, request)
        self.texts += reply.body.count(b'"index"')
        return reply


@pytest.mark.parametrize("replicas", [1, 2, 3])
async def test_no_text_of_a_lane_is_lost(replicas: int) -> None:
    open_door = BatchPolicy(batch_texts=1, bulk_batches=1024)
    pools = [StubPool(policy=open_door) for _ in range(replicas)]
    engines = [SlowEngine(pool.plan) for pool in pools]
    for pool, engine in zip(pools, engines, strict=True):
        pool.engines = [engine]
    runner = VariantRunner(make_plan(), cast(list[Pool], pools))
    began = time.monotonic()
    speed = await runner.measure(24)
    seconds = time.monotonic() - began
    assert runner.concurrency == 2 * replicas
    assert speed * seconds >= sum(engine.texts for engine in engines) > 0
