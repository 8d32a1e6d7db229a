"""The cache on a real disk: exact, bounded, private, and never an error for a caller."""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from llamafile_mgr.cli import main_group
from llamafile_mgr.embedding.embedder import Embedder
from llamafile_mgr.embedding.requests import EmbedRequest, InputType, Truncation
from llamafile_mgr.embedding.vector_cache import CacheThread, VectorCache, open_cache, text_key
from llamafile_mgr.embedding.vectors import TextVector
from llamafile_mgr.errors import StoreError
from llamafile_mgr.paths import resolve_paths
from tests.embedding.stub_pool import NAN, StubPool, make_plan, vector_of

SPACE = "0123456789abcdef"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[VectorCache]:
    made = VectorCache(tmp_path / "private" / "vectors.sqlite", 100_000_000)
    yield made
    made.close()


def entries(*texts: str) -> dict[bytes, TextVector]:
    return {text_key(text): TextVector(vector_of(text), len(text)) for text in texts}


def test_what_was_put_comes_back_to_the_bit(cache: VectorCache) -> None:
    texts = [f"text {n} é" for n in range(1200)]
    cache.put(SPACE, entries(*texts))
    found = cache.get(SPACE, [text_key(text) for text in [*texts, "unknown"]])
    assert len(found) == 1200
    for text in texts:
        assert np.array_equal(found[text_key(text)].vector, vector_of(text))
        assert found[text_key(text)].tokens == len(text)


def test_another_space_knows_nothing(cache: VectorCache) -> None:
    cache.put(SPACE, entries("a"))
    assert cache.get("f" * 16, [text_key("a")]) == {}


def test_only_the_owner_may_read_and_no_text_is_stored(cache: VectorCache) -> None:
    cache.put(SPACE, entries("a secret sentence"))
    assert stat.S_IMODE(cache.path.parent.stat().st_mode) == 0o700
    files = list(cache.path.parent.iterdir())
    assert len(files) >= 2  # the file and its journal
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert b"secret" not in file.read_bytes()


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "vectors.sqlite", 1_000_000)
    row = np.full(1024, 1 / 32, np.float32)
    keys = [text_key(str(n)) for n in range(3000)]
    for at in range(0, 3000, 50):
        cache.put(SPACE, {key: TextVector(row, None) for key in keys[at : at + 50]})
        cache.get(SPACE, keys[:10])
    kept = cache.get(SPACE, keys)
    assert 50 < len(kept) < 300
    assert set(keys[:10]) <= set(kept)  # used all the time
    assert set(keys[-50:]) <= set(kept)
    cache.close()
    assert cache.path.stat().st_size < 1_500_000


def test_two_processes_may_share_a_file(cache: VectorCache) -> None:
    other = VectorCache(cache.path, cache.limit_bytes)
    cache.put(SPACE, entries("a"))
    other.put(SPACE, entries("b"))
    assert len(cache.get(SPACE, [text_key("a"), text_key("b")])) == 2
    other.close()


def test_a_changed_vector_is_not_believed(cache: VectorCache) -> None:
    cache.put(SPACE, entries("a", "b"))
    cache.close()
    with sqlite3.connect(cache.path) as connection:
        blob = vector_of("b").tobytes()
        connection.execute("UPDATE vectors SET vector = ? WHERE key = ?", (blob, text_key("a")))
    connection.close()
    assert list(cache.get(SPACE, [text_key("a"), text_key("b")])) == [text_key("b")]


@pytest.mark.parametrize("damage", ["garbage", "cut", "another version"])
def test_a_damaged_file_is_set_aside(
    cache: VectorCache, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put(SPACE, entries(*(f"{n}" for n in range(500))))
    cache.close()
    if damage == "garbage":
        cache.path.write_bytes(os.urandom(20_000))
    elif damage == "cut":
        cache.path.write_bytes(cache.path.read_bytes()[:9_000])
    else:
        with sqlite3.connect(cache.path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    with caplog.at_level(logging.WARNING):
        assert cache.get(SPACE, [text_key("7")]) == {}
    assert "is damaged" in caplog.text
    assert cache.path.with_name("vectors.sqlite.damaged").exists()
    cache.put(SPACE, entries("a"))
    assert len(cache.get(SPACE, [text_key("a")])) == 1


def test_a_file_that_cannot_be_used_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "vectors.sqlite").mkdir(parents=True)
    (tmp_path / "target").write_text("untouched")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for path in (
        tmp_path / "file" / "vectors.sqlite",
        tmp_path / "folder" / "vectors.sqlite",
        tmp_path / "link",
    ):
        caplog.clear()
        cache = VectorCache(path, 1000)
        cache.put(SPACE, entries("a"))
        assert cache.get(SPACE, [text_key("a")]) == {}
        assert "cannot be used" in caplog.text
        with pytest.raises(StoreError) if path.is_file() else _nothing():
            cache.facts()
    assert (tmp_path / "target").read_text() == "untouched"


def test_an_error_of_the_system_does_not_advise_to_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = VectorCache(tmp_path / "vectors.sqlite", 1000)
    cache.put(SPACE, entries("a"))

    def refuse() -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(cache.path))

    monkeypatch.setattr(cache, "_open", refuse)  # root could write where others cannot
    with pytest.raises(StoreError, match=r"vectors\.sqlite: Read-only file system$") as caught:
        cache.facts()
    assert caught.value.hint is None


class _nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def test_a_locked_file_is_a_miss(cache: VectorCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(SPACE, entries("a"))
    other = sqlite3.connect(cache.path, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, other.rollback).start()
    cache.put(SPACE, entries("b"))  # waits for the other writer
    assert len(cache.get(SPACE, [text_key("a"), text_key("b")])) == 2
    other.close()


class TestEmbedder:
    """The cache in a call."""

    @pytest.fixture
    def thread(self, cache: VectorCache) -> Iterator[CacheThread]:
        made = CacheThread(cache)
        yield made
        made.close()

    def make(self, pool: StubPool, thread: CacheThread) -> Embedder:
        return Embedder(pool.as_pool(), wait_seconds=5, cache=thread)

    async def test_known_texts_cost_no_engine(self, thread: CacheThread) -> None:
        pool = StubPool()
        embedder = self.make(pool, thread)
        texts = tuple(f"text {n}" for n in range(50))
        first = await embedder.embed(EmbedRequest(texts))
        sent = len(pool.groups)
        second = await self.make(pool, thread).embed(EmbedRequest((*texts, "new")))
        assert pool.groups[sent:] == [["new"]]
        assert np.array_equal(first.vectors, second.vectors[:50])
        assert [outcome.cached for outcome in second.outcomes] == [True] * 50 + [False]
        assert first.prompt_tokens == 4 * 50
        assert (embedder.stats().cache_hits, embedder.stats().cache_misses) == (0, 50)

    async def test_counted_tokens_are_kept_and_nothing_is_counted_twice(self, thread: CacheThread) -> None:
        pool = StubPool()
        text = " ".join(f"word{n}" for n in range(30))
        first = await self.make(pool, thread).embed(EmbedRequest((text,)))
        second = await self.make(pool, thread).embed(EmbedRequest((text,)))
        assert first.outcomes[0].tokens == second.outcomes[0].tokens == second.prompt_tokens == 32
        assert len(pool.engines[0].tokenized) == 1

    async def test_pieces_of_long_texts_are_kept_too(self, thread: CacheThread) -> None:
        pool = StubPool(make_plan(max_tokens=20))
        request = EmbedRequest((" ".join(f"word{n}" for n in range(90)),), truncation=Truncation.CHUNK)
        first = await self.make(pool, thread).embed(request)
        sent = len(pool.groups)
        second = await self.make(pool, thread).embed(request)
        assert len(pool.groups) == sent
        assert np.array_equal(first.vectors, second.vectors)
        assert second.outcomes[0].truncated is Truncation.CHUNK
        assert second.outcomes[0].cached

    async def test_a_prompt_makes_another_text(self, thread: CacheThread) -> None:
        pool = StubPool(make_plan("mxbai-embed-large-v1", max_tokens=None))
        embedder = self.make(pool, thread)
        await embedder.embed(EmbedRequest(("a",), InputType.DOCUMENT))
        await embedder.embed(EmbedRequest(("a",), InputType.QUERY))
        await embedder.embed(EmbedRequest(("a",), InputType.NONE))
        assert len(pool.groups) == 2

    async def test_a_failed_call_keeps_what_was_right_and_nothing_else(self, thread: CacheThread) -> None:
        pool = StubPool()
        await self.make(pool, thread).embed(EmbedRequest(("a", NAN), keep_going=True))
        again = await self.make(pool, thread).embed(EmbedRequest(("a", NAN), keep_going=True))
        assert [outcome.cached for outcome in again.outcomes] == [True, False]

    @pytest.mark.parametrize("digest", [None, "0" * 64])
    async def test_off_where_it_must_or_should_be(self, thread: CacheThread, digest: str | None) -> None:
        pool = StubPool(make_plan(digest=digest))
        embedder = self.make(pool, thread)
        for _ in range(2):
            await embedder.embed(EmbedRequest(("a",), use_cache=digest is None))
        assert len(pool.groups) == 2


def test_no_bytes_no_cache(tmp_path: Path) -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    assert open_cache(paths, 0) is None
    assert not paths.cache.exists()


def test_the_command(tmp_path: Path) -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    runner = CliRunner(env={"LLAMAFILE_MGR_HOME": str(tmp_path)})

    def run(*arguments: str) -> str:
        result = runner.invoke(main_group, ["cache", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    assert json.loads(run("stats", "--json"))["entries"] == 0
    assert "cleared 0 vectors" in run("clear")
    assert not paths.cache.exists()
    thread = open_cache(paths, 1_000_000)
    assert thread is not None
    thread.put(SPACE, entries("a", "b"))
    thread.close()
    assert f"{SPACE}  2" in run("stats")
    facts = json.loads(run("stats", "--json"))
    assert (facts["entries"], facts["vector_spaces"], facts["limit_bytes"]) == (2, {SPACE: 2}, 1024**3)
    assert json.loads(run("clear", "--json"))["cleared"]["entries"] == 2
    assert json.loads(run("stats", "--json"))["entries"] == 0
    Path(facts["path"]).write_bytes(b"x" * 5000)
    broken = runner.invoke(main_group, ["cache", "stats"])
    assert isinstance(broken.exception, StoreError)
    run("clear")
    assert not Path(facts["path"]).exists()
