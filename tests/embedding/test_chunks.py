"""Chunks that a caller gets back: their ranges cover the text in order, their mean is the text's vector."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llamafile_mgr.embedding.assembling import weighted_mean
from llamafile_mgr.embedding.embedder import Embedder
from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult, InputType, TextChunk, Truncation
from tests.embedding.stub_pool import NAN, StubPool, make_plan, vector_of
from tests.support.service import Service

#: About a hundred words, blanks of every kind between them; the stub takes 64 tokens.
TEXTS = st.lists(
    st.sampled_from(["word ", "é. ", "👍 ", "a\n\n", "?  ", "\u3000中", "w "]), max_size=150
).map("".join)


def embed(request: EmbedRequest, model: str | None = None) -> EmbedResult:
    return asyncio.run(Embedder(StubPool(make_plan(model)).as_pool(), wait_seconds=5.0).embed(request))


def chunked(*texts: str, kind: InputType | None = None, keep_going: bool = False) -> EmbedRequest:
    return EmbedRequest(texts, kind, truncation=Truncation.CHUNK, keep_going=keep_going, return_chunks=True)


def check_cover(text: str, chunks: tuple[TextChunk, ...], start: int = 0) -> None:
    """Raise unless the ranges go through ``text`` in order and leave out nothing but blanks."""
    at, last = start, start - 1
    for chunk in chunks:
        assert last < chunk.start < chunk.end <= len(text) or text == ""
        assert chunk.start <= at or not text[at : chunk.start].strip()
        at, last = chunk.end, chunk.start
    assert not text[at:].strip()


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS)
@example("w " * 200, "")
def test_ranges_cover_every_text(long: str, other: str) -> None:
    texts = [long or "x", (other or "y") + "end"]
    result = embed(chunked(*texts))
    for text, chunks, outcome, row in zip(texts, result.chunks, result.outcomes, result.vectors, strict=True):
        check_cover(text, chunks)
        assert len(chunks) == outcome.chunks
        for chunk in chunks:
            assert np.allclose(chunk.vector, vector_of(text[chunk.start : chunk.end]), atol=1e-6)
        weights = [(chunk.vector, float(chunk.tokens or 1)) for chunk in chunks]
        assert np.allclose(row, weighted_mean(weights), atol=1e-6)


def test_ranges_leave_out_the_prompt_that_a_text_brings_along() -> None:
    prompt = "Represent this sentence for searching relevant passages: "
    text = prompt + "many words " * 100
    bare, own = embed(
        chunked(text.removeprefix(prompt), text, kind=InputType.QUERY), "mxbai-embed-large-v1"
    ).chunks
    assert [(c.start + len(prompt), c.end + len(prompt)) for c in bare] == [(c.start, c.end) for c in own]
    check_cover(text, own, start=len(prompt))


def test_a_failed_text_has_no_chunks_and_nobody_gets_some_unasked() -> None:
    result = embed(chunked("fine", NAN + " bad " * 100, keep_going=True))
    assert [len(chunks) for chunks in result.chunks] == [1, 0]
    assert embed(EmbedRequest(("x " * 100,), truncation=Truncation.CHUNK)).chunks == ()


def test_chunks_are_cut_to_dimensions() -> None:
    pool = StubPool(make_plan("mxbai-embed-large-v1"))
    request = EmbedRequest(("word " * 100,), truncation=Truncation.CHUNK, return_chunks=True, dimensions=8)
    result = asyncio.run(Embedder(pool.as_pool(), wait_seconds=5.0).embed(request))
    assert result.vectors.shape == (1, 8)
    for chunk in result.chunks[0]:
        assert chunk.vector.shape == (8,)
        assert np.linalg.norm(chunk.vector) == pytest.approx(1.0, abs=1e-6)


def test_chunks_of_the_real_engine(service: Service) -> None:
    text = " ".join(f"Sentence {n} tells something about the number {n * 7}." for n in range(120))
    body = {"input": [text, "short"], "truncate": "chunk", "return_chunks": True}
    reply = httpx.post(f"{service.url}/v1/embeddings", json=body, timeout=60)
    assert reply.headers["x-truncated"] == "0"
    long, short = reply.json()["data"]
    assert (long["truncated"], long["tokens"] > 512, len(long["chunks"]) > 2) == ("chunk", True, True)
    assert [(c["start"], c["end"]) for c in short["chunks"]] == [(0, 5)]
    assert short["chunks"][0]["embedding"] == short["embedding"]
    pieces = [text[c["start"] : c["end"]] for c in long["chunks"]]
    assert pieces[0].startswith("Sentence 0")
    assert pieces[-1].endswith(" 833.")
    alone = httpx.post(f"{service.url}/v1/embeddings", json={"input": pieces}, timeout=60).json()["data"]
    for chunk, again in zip(long["chunks"], alone, strict=True):
        assert chunk["tokens"] <= 512
        assert np.dot(chunk["embedding"], again["embedding"]) >= 0.9999
