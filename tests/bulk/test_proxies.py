"""A running proxy as the source of vectors: what it refuses, what it asks to be repeated, what changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llamafile_mgr.bulk import EmbedSettings, running_proxy
from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ServeConfig
from llamafile_mgr.errors import CheckpointError, NotFoundError, NotReadyError, RequestError
from llamafile_mgr.proxy.keys import read_keys
from tests.support.front import FakeModel, running_front

NOTHING = EmbedSettings()


async def test_vectors_and_what_is_told_of_them(tmp_path: Path) -> None:
    models = [FakeModel("g", Role.GENERATE), FakeModel("e"), FakeModel("other")]
    async with running_front(tmp_path, models) as running:
        async with running_proxy(running.url, NOTHING) as source:
            assert (source.model, source.dimensions, source.exact) == ("e", 384, False)
            assert source.vector_space == running.front.embedders["e"].vector_space
            one, two = await source.embed(["a", "b"])
            again = (await source.embed(["b"]))[0]
            assert one.vector is not None
            assert np.linalg.norm(one.vector) == pytest.approx(1.0, abs=1e-5)
            assert np.array_equal(two.vector, again.vector)  # type: ignore[arg-type]
        async with running_proxy(f"{running.url}/v1/", NOTHING, model="other") as source:
            assert source.model == "other"
        with pytest.raises(NotFoundError, match="serves e, other, not none"):
            async with running_proxy(running.url, NOTHING, model="none"):
                pass


async def test_texts_that_fail_are_named_and_others_are_not(tmp_path: Path) -> None:
    async with running_front(tmp_path, [FakeModel("e")]) as running:
        async with running_proxy(running.url, NOTHING) as source:
            fine, long, cut = await source.embed(["fine", "word " * 600, "x"])
            assert fine.failure is None
            assert cut.failure is None
            assert long.failure is not None
            assert long.failure.code == "context_length_exceeded"
        shorter = EmbedSettings(dimensions=7)
        async with running_proxy(running.url, shorter) as source:
            with pytest.raises(RequestError, match="dimensions"):
                await source.embed(["a"])


async def test_a_request_that_is_too_large_is_halved(tmp_path: Path) -> None:
    settings = ServeConfig(drain_seconds=1, max_body_bytes=1000)
    async with (
        running_front(tmp_path, [FakeModel("e")], settings) as running,
        running_proxy(running.url, NOTHING) as source,
    ):
        results = await source.embed(["a" * 150, *(f"text {n} " + "b" * 90 for n in range(20)), "c" * 2000])
        assert [each.failure is None for each in results] == [*[True] * 21, False]
        assert results[-1].failure is not None
        assert results[-1].failure.code == "body_too_large"


async def test_another_vector_space_ends_the_job(tmp_path: Path) -> None:
    async with (
        running_front(tmp_path, [FakeModel("e")]) as running,
        running_proxy(running.url, NOTHING) as source,
    ):
        pool = running.front.pools[0]
        pool.plan = replace(pool.plan, weights_digest="1" * 64)
        with pytest.raises(CheckpointError, match="vector"):
            await source.embed(["a"])


async def test_a_proxy_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    settings = ServeConfig(drain_seconds=1, queue_items=4)
    async with (
        running_front(tmp_path, [FakeModel("e")], settings) as running,
        running_proxy(running.url, NOTHING) as source,
    ):
        results = await asyncio.gather(*(source.embed([f"{n} {m}" for m in range(4)]) for n in range(6)))
        assert all(each.vector is not None for some in results for each in some)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="does not answer"):
        async with running_proxy("http://127.0.0.1:9", NOTHING, patience_seconds=0.1):
            pass


async def test_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("me:0123456789abcdef0123456789abcdef\n")
    file.chmod(0o600)
    async with running_front(tmp_path, [FakeModel("e")], keys=read_keys(file)) as running:
        with pytest.raises(RequestError, match="refuses us"):
            async with running_proxy(running.url, NOTHING):
                pass
        key = "0123456789abcdef0123456789abcdef"
        async with running_proxy(running.url, NOTHING, api_key=key) as source:
            assert (await source.embed(["a"]))[0].vector is not None
