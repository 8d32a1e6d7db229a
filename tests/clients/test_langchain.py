"""langchain-community's llamafile classes, unchanged."""

from __future__ import annotations

import warnings

import pytest

from tests.support.golden import GOLDEN, golden_cosine
from tests.support.service import Service

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package announces its own sunset on import
    from langchain_community.embeddings import LlamafileEmbeddings
    from langchain_community.llms.llamafile import Llamafile


@pytest.fixture
def embeddings(service: Service) -> LlamafileEmbeddings:
    return LlamafileEmbeddings(base_url=service.url)


@pytest.fixture
def llm(service: Service) -> Llamafile:
    return Llamafile(base_url=service.url, seed=1, temperature=0.0, n_predict=12, streaming=False)


def test_documents_and_query(embeddings: LlamafileEmbeddings) -> None:
    texts = list(GOLDEN)
    for text, vector in zip(texts, embeddings.embed_documents(texts), strict=True):
        assert golden_cosine(text, vector) >= 0.999
    assert golden_cosine("hello world", embeddings.embed_query("hello world")) >= 0.999


def test_completion(llm: Llamafile) -> None:
    assert isinstance(llm.invoke("Say hello."), str)


def test_streamed_completion_holds_text_alone(llm: Llamafile) -> None:
    pieces = list(llm.stream("Say hello."))
    assert 1 <= len([piece for piece in pieces if piece]) <= 12
    assert not any("data:" in piece or "[DONE]" in piece or piece.startswith(":") for piece in pieces)
    assert "".join(pieces) == "".join(llm.stream("Say hello."))
