"""What a turn of a variant's engines is worth: every text of every lane counts."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest

from llamafile_mgr.embedding.tuning import VariantRunner
from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.supervisor.pool import Pool
from tests.embedding.stub_pool import StubEngine, make_plan


class SlowPool:
    """Answers each request after a while, several at once."""

    def __init__(self) -> None:
        self.texts = 0
        self._engine = StubEngine(make_plan())

    async def call(self, request: EngineRequest, **_: float) -> EngineReply:
        await asyncio.sleep(0.02)
        client = self._engine.client
        assert client is not None
        reply = await client.request(request, deadline_seconds=5)
        self.texts += reply.body.count(b'"index"')
        return reply


@pytest.mark.parametrize("replicas", [1, 2, 3])
async def test_no_text_of_a_lane_is_lost(replicas: int) -> None:
    pools = [SlowPool() for _ in range(replicas)]
    runner = VariantRunner(make_plan(), cast(list[Pool], pools))
    began = time.monotonic()
    speed = await runner.measure(24)
    seconds = time.monotonic() - began
    assert runner.lanes == 2 * replicas
    assert speed * seconds >= sum(pool.texts for pool in pools) > 0
