"""LlamaIndex' llamafile classes, unchanged. They parse streams by hand and trip over much of SSE."""

from __future__ import annotations

import warnings

import pytest

from tests.support.golden import GOLDEN, golden_cosine
from tests.support.service import Service

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic deprecations inside the package
    from llama_index.core.base.llms.types import ChatMessage, MessageRole
    from llama_index.embeddings.llamafile import LlamafileEmbedding
    from llama_index.llms.llamafile import Llamafile


@pytest.fixture
def embedding(service: Service) -> LlamafileEmbedding:
    return LlamafileEmbedding(base_url=service.url)


@pytest.fixture
def llm(service: Service) -> Llamafile:
    return Llamafile(base_url=service.url, temperature=0.0, seed=1, additional_kwargs={"n_predict": 12})


@pytest.mark.parametrize("count", [1, 2, 10])
def test_batches(embedding: LlamafileEmbedding, count: int) -> None:
    texts = list(GOLDEN)[:count]
    for text, vector in zip(texts, embedding.get_text_embedding_batch(texts), strict=True):
        assert golden_cosine(text, vector) >= 0.999


def test_query(embedding: LlamafileEmbedding) -> None:
    assert golden_cosine("a", embedding.get_query_embedding("a")) >= 0.999


async def test_async_batch(embedding: LlamafileEmbedding) -> None:
    vectors = await embedding.aget_text_embedding_batch(["a", "hello world"])
    assert golden_cosine("hello world", vectors[1]) >= 0.999


def test_completion(llm: Llamafile) -> None:
    assert isinstance(llm.complete("Say hello.").text, str)


def test_streamed_completion(llm: Llamafile) -> None:
    pieces = list(llm.stream_complete("Say hello."))
    assert 1 <= len(pieces) <= 13
    assert pieces[-1].text == llm.complete("Say hello.").text


CONVERSATION = [
    ChatMessage(role=MessageRole.SYSTEM, content="You are terse."),
    ChatMessage(role=MessageRole.USER, content="Say hello."),
]


def test_chat(llm: Llamafile) -> None:
    reply = llm.chat(CONVERSATION)
    assert reply.message.role is MessageRole.ASSISTANT


def test_streamed_chat(llm: Llamafile) -> None:
    pieces = list(llm.stream_chat(CONVERSATION))
    assert pieces
    assert pieces[-1].message.role is MessageRole.ASSISTANT
    # The seed and temperature that it nests under "options" reach the engine: the answer repeats itself.
    assert pieces[-1].message.content == list(llm.stream_chat(CONVERSATION))[-1].message.content
