"""After a restart with another plan nothing of the engines before is left in what callers get."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llamafile_mgr.embedding.embedder import Embedder
from llamafile_mgr.embedding.requests import EmbedRequest, InputType, Truncation
from llamafile_mgr.embedding.vector_cache import CacheThread, VectorCache
from llamafile_mgr.engines.families import Family
from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.errors import InputTooLongError
from tests.embedding.stub_pool import StubClient, StubEngine, StubPool, make_plan, vector_of

TEXTS = tuple(f"text number {n}" for n in range(9))
KNOWN = np.stack([vector_of(text) for text in TEXTS])


def make(pool: StubPool, cache: CacheThread | None = None) -> Embedder:
    return Embedder(pool.as_pool(), wait_seconds=5, deadline_seconds=5, cache=cache)


@pytest.mark.parametrize(
    ("before", "after"),
    [(Family.V10, Family.V2), (Family.V2, Family.V10), (Family.V10, Family.V1)],
    ids=lambda family: family.value,
)
async def test_engines_of_another_generation_are_asked_in_their_way(before: Family, after: Family) -> None:
    pool = StubPool(make_plan(family=before))
    embedder = make(pool)
    old = pool.engines[0]
    assert np.allclose((await embedder.embed(EmbedRequest(TEXTS))).vectors, KNOWN)
    sent = len(old.groups)
    pool.replace(make_plan(family=after))
    assert np.allclose((await embedder.embed(EmbedRequest(TEXTS))).vectors, KNOWN)
    assert len(old.groups) == sent
    assert max(map(len, pool.groups)) == (9 if after is Family.V10 else 1)


@pytest.mark.parametrize("after", [Family.V10, Family.V2], ids=lambda family: family.value)
@pytest.mark.parametrize("keep_going", [False, True])
async def test_a_call_that_overlaps_the_exchange_has_vectors_of_one_space(
    after: Family, keep_going: bool
) -> None:
    pool = StubPool()
    embedder = make(pool)
    before = embedder.vector_space
    old = pool.engines[0]
    old.gate.clear()
    call = asyncio.create_task(embedder.embed(EmbedRequest(TEXTS, keep_going=keep_going)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert old.in_flight
    pool.replace(make_plan(family=after, digest="1" * 64))
    old.gate.set()
    result = await call
    assert result.vector_space == embedder.vector_space != before
    assert np.allclose(result.vectors, KNOWN)
    assert sorted(text for group in pool.groups for text in group) == sorted(TEXTS)


async def test_what_failed_meanwhile_is_tried_with_the_new_engines() -> None:
    class Exchanging(StubEngine):
        """Is exchanged for one that takes longer texts while it counts one."""

        async def answer(self, client: StubClient, request: EngineRequest) -> EngineReply:
            reply = await super().answer(client, request)
            pool.replace(make_plan(max_tokens=64))
            return reply

    pool = StubPool(make_plan(max_tokens=8))
    pool.engines = [Exchanging(pool.plan)]
    embedder = make(pool)
    assert len((await embedder.embed(EmbedRequest(("word " * 20,)))).vectors) == 1
    with pytest.raises(InputTooLongError, match="more than the 64"):
        await embedder.embed(EmbedRequest(("word " * 80,)))


async def test_prompts_and_cuts_are_those_of_the_new_plan() -> None:
    pool = StubPool(make_plan("all-minilm-l6-v2", max_tokens=64))
    embedder = make(pool)
    await embedder.embed(EmbedRequest(("a",), input_type=InputType.QUERY))
    pool.replace(replace(make_plan("mxbai-embed-large-v1", max_tokens=24), append_eos=True))
    request = EmbedRequest(("word " * 20,), input_type=InputType.QUERY, truncation=Truncation.RIGHT)
    result = await embedder.embed(request)
    (text,) = pool.groups[0]
    assert text.startswith("Represent this sentence")
    assert text.endswith("</s>")
    assert result.outcomes[0].truncated is Truncation.RIGHT
    assert len(text.split()) + 2 <= 24


async def test_weights_that_nothing_tells_apart_are_not_cached_after_a_restart(tmp_path: Path) -> None:
    cache = CacheThread(VectorCache(tmp_path / "vectors.sqlite", 1_000_000))
    pool = StubPool()
    embedder = make(pool, cache)
    for _ in range(2):
        await embedder.embed(EmbedRequest(("a",)))
    assert len(pool.groups) == 1
    for _ in range(2):
        pool.replace(make_plan(digest=None))
        await embedder.embed(EmbedRequest(("a",)))
        assert pool.groups == [["a"]], "these may be other weights than before"
    pool.replace(make_plan())
    result = await embedder.embed(EmbedRequest(("a",)))
    assert result.outcomes[0].cached
    cache.close()
