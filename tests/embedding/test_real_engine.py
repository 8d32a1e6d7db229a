"""The same text has the same vector, however it came: on the real engine, through the proxy and without."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from llamafile_mgr.config import Config
from llamafile_mgr.embedding.checked_engines import make_supervisor
from llamafile_mgr.embedding.embedder import Embedder
from llamafile_mgr.embedding.requests import EmbedRequest, Truncation
from llamafile_mgr.embedding.vector_cache import CacheThread, VectorCache
from llamafile_mgr.embedding.vectors import cosines
from llamafile_mgr.errors import InputTooLongError
from llamafile_mgr.launching.local_plans import make_plans
from llamafile_mgr.launching.wanted import Wanted, WantedModels
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.supervisor.calls import BatchPolicy
from llamafile_mgr.supervisor.pool import Pool
from tests.support.golden import GOLDEN, golden_cosine
from tests.support.service import Service, running_service

#: Texts of three to three hundred tokens; the golden ones are among them.
TEXTS = tuple(GOLDEN) + tuple(
    f"{'Passage ' * (n % 20 + 1)}number {n} is about {('rivers', 'engines', 'law', 'bread')[n % 4]}."
    for n in range(14)
)
KNOWN = np.array([GOLDEN[text] for text in GOLDEN], dtype=np.float32)


@contextlib.asynccontextmanager
async def running_pool(home: Path) -> AsyncIterator[Pool]:
    """Run MiniLM in this process's supervisor, without a proxy."""
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(home)})
    plans = make_plans(WantedModels((Wanted("all-minilm-l6-v2"),)), Config(), paths)
    supervisor = make_supervisor(plans, paths)
    try:
        await supervisor.start()
        yield supervisor.pools[0]
    finally:
        await supervisor.stop()


async def alone(embedder: Embedder) -> np.ndarray:
    """Return every text's vector, computed alone."""
    rows = [(await embedder.embed(EmbedRequest((text,)))).vectors[0] for text in TEXTS]
    return np.stack(rows)


async def test_alone_batched_coalesced_and_cached_are_one(model_home: Path, tmp_path: Path) -> None:
    async with running_pool(model_home) as pool:
        cache = CacheThread(VectorCache(tmp_path / "vectors.sqlite", 10_000_000))
        embedder = Embedder(pool, wait_seconds=30)
        reference = await alone(embedder)
        batched = (await embedder.embed(EmbedRequest(TEXTS))).vectors
        order = list(range(len(TEXTS)))
        random.Random(7).shuffle(order)
        shuffled = await embedder.embed(EmbedRequest(tuple(TEXTS[i] for i in order)))
        coalesced = await asyncio.gather(*(embedder.embed(EmbedRequest((text,))) for text in TEXTS))
        pool.options = replace(pool.options, policy=BatchPolicy(batch_tokens=64))
        small = Embedder(pool, wait_seconds=30, cache=cache)
        mixed = await asyncio.gather(
            *(small.embed(EmbedRequest(TEXTS[at : at + 7])) for at in range(0, len(TEXTS), 7))
        )
        cached = await small.embed(EmbedRequest(TEXTS))
        cache.close()
        sent = embedder.stats().batches
        assert all(outcome.cached for outcome in cached.outcomes)
        assert sent < 2 * len(TEXTS) + 40  # the coalesced texts shared groups
        for vectors in (
            batched,
            shuffled.vectors[np.argsort(order)],
            np.concatenate([result.vectors for result in coalesced]),
            np.concatenate([result.vectors for result in mixed]),
            cached.vectors,
        ):
            assert cosines(reference, vectors).min() >= 0.9999
        assert cosines(reference[: len(GOLDEN)], KNOWN).min() >= 0.999
        assert sum(result.prompt_tokens for result in coalesced) == pytest.approx(
            (await embedder.embed(EmbedRequest(TEXTS))).prompt_tokens, abs=len(TEXTS)
        )


async def test_long_texts_on_the_real_tokenizer(model_home: Path) -> None:
    sentence = "The quick brown fox jumps over the lazy dog near the river bank. "
    long = sentence * 60 + "Ende"
    async with running_pool(model_home) as pool:
        embedder = Embedder(pool, wait_seconds=30)
        with pytest.raises(InputTooLongError, match=r"text 1 has 844 tokens, more than the 512"):
            await embedder.embed(EmbedRequest(("short", long)))
        whole = await embedder.embed(EmbedRequest((sentence,)))
        for how in (Truncation.RIGHT, Truncation.LEFT, Truncation.CHUNK):
            result = await embedder.embed(EmbedRequest((long, "short"), truncation=how))
            outcome = result.outcomes[0]
            assert (outcome.tokens, outcome.truncated) == (844, how)
            assert outcome.chunks == (2 if how is Truncation.CHUNK else 1)
            assert 500 <= result.prompt_tokens - 3 <= 512 or how is Truncation.CHUNK
            assert float(cosines(result.vectors[:1], whole.vectors)[0]) > 0.5
        exactly = "a " * 510
        assert (await embedder.embed(EmbedRequest((exactly,)))).outcomes[0].tokens == 512
        with pytest.raises(InputTooLongError, match="513 tokens"):
            await embedder.embed(EmbedRequest((exactly + "a",)))
        chinese = "机器学习是人工智能的一个分支。" * 80
        result = await embedder.embed(EmbedRequest((chinese,), truncation=Truncation.CHUNK))
        assert result.outcomes[0].chunks > 2


async def test_a_killed_engine_costs_no_text(model_home: Path) -> None:
    async with running_pool(model_home) as pool:
        embedder = Embedder(pool, wait_seconds=30)
        await embedder.embed(EmbedRequest(("warm",)))
        call = asyncio.create_task(embedder.embed(EmbedRequest(TEXTS)))
        while embedder.stats().batches < 2:  # noqa: ASYNC110  # nothing tells when a group is sent
            await asyncio.sleep(0.001)
        for state in pool.snapshot().engines:
            if state.pid is not None:
                os.kill(state.pid, signal.SIGKILL)
        vectors = (await call).vectors
        assert cosines(vectors[: len(GOLDEN)], KNOWN).min() >= 0.999


def test_through_the_proxy_in_every_mix(service: Service) -> None:
    def embed(texts: list[str]) -> list[list[float]]:
        reply = httpx.post(f"{service.url}/v1/embeddings", json={"input": texts}, timeout=30)
        assert reply.status_code == 200
        return [item["embedding"] for item in reply.json()["data"]]

    for rows in (embed(list(GOLDEN)), [embed([text])[0] for text in GOLDEN]):
        for text, row in zip(GOLDEN, rows, strict=True):
            assert golden_cosine(text, row) >= 0.999


def test_the_cache_outlives_serve_and_can_be_off(model_home: Path) -> None:
    text = "kept over a restart"
    rows = []
    for options in ([], [], ["--no-cache"]):
        with running_service(model_home, "all-minilm-l6-v2", *options) as running:
            reply = httpx.post(f"{running.url}/v1/embeddings", json={"input": text}, timeout=30)
            rows.append(np.array([reply.json()["data"][0]["embedding"]], np.float32))
    assert np.array_equal(rows[0], rows[1])
    assert cosines(rows[0], rows[2]).min() >= 0.9999
