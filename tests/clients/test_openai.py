"""openai-python, unchanged: its default asks for base64."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.support.golden import GOLDEN, golden_cosine
from tests.support.service import Service


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="not-needed", max_retries=0) as made:
        yield made


def test_one_text(client: openai.OpenAI) -> None:
    reply = client.embeddings.create(model="all-minilm-l6-v2", input="hello world")
    assert golden_cosine("hello world", reply.data[0].embedding) >= 0.999
    assert reply.usage.prompt_tokens == 4
    assert reply.model == "all-minilm-l6-v2"


def test_many_texts_in_order(client: openai.OpenAI) -> None:
    texts = list(GOLDEN) * 8
    reply = client.embeddings.create(model="text-embedding-3-small", input=texts)
    assert [item.index for item in reply.data] == list(range(len(texts)))
    for text, item in zip(texts, reply.data, strict=True):
        assert golden_cosine(text, item.embedding) >= 0.999


def test_floats_when_asked(client: openai.OpenAI) -> None:
    reply = client.embeddings.create(model="x", input=["a"], encoding_format="float")
    assert isinstance(reply.data[0].embedding, list)
    assert golden_cosine("a", reply.data[0].embedding) >= 0.999


def test_base_url_without_v1(service: Service) -> None:
    with openai.OpenAI(base_url=service.url, api_key="x", max_retries=0) as client:
        reply = client.embeddings.create(model="x", input="a")
    assert golden_cosine("a", reply.data[0].embedding) >= 0.999


@pytest.mark.parametrize("bad", [12.5, [], [1, 2, 3], [[101, 102]], ["fine", None], {"a": 1}])
def test_wrong_input_is_a_bad_request(client: openai.OpenAI, bad: object) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="x", input=bad)
    assert caught.value.body["src"] == "llamafile-mgr"


def test_a_text_that_is_too_long_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"text 1 has 602 tokens, more than the 512"):
        client.embeddings.create(model="x", input=["short", "x " * 600])


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="LLaMA_CPP", messages=[{"role": "user", "content": "Say hello."}], max_tokens=5
    )
    assert reply.choices[0].message.role == "assistant"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5


def test_streamed_chat(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="x",
        messages=[{"role": "user", "content": "Say hello."}],
        max_completion_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 8


def test_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="x", prompt="Say hello.", max_tokens=4)
    assert reply.choices[0].finish_reason == "length"
    pieces = list(client.completions.create(model="x", prompt="Say hello.", max_tokens=4, stream=True))
    assert pieces[-1].choices[0].finish_reason == "length"


def test_responses(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="x", input="Say hello.", max_output_tokens=5)
    assert reply.status in ("completed", "incomplete")
    assert reply.output[0].type == "message"
    assert isinstance(reply.output_text, str)
    assert reply.usage is not None
    assert reply.usage.output_tokens == 5


def test_streamed_responses(client: openai.OpenAI) -> None:
    # Of random weights some answers begin with bytes that are no letters, or end before their first: of an
    # answer without a text the engine sends the end alone.
    asked = {"model": "x", "input": "Say hello.", "max_output_tokens": 40, "stream": True}
    events = list(client.responses.create(**asked, extra_body={"ignore_eos": True}))
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds.count("response.output_text.delta") > 0
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["all-minilm-l6-v2", "tiny-generator"]


def test_chatting_with_the_embedding_model_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="all-minilm-l6-v2 cannot generate text"):
        client.chat.completions.create(model="all-minilm-l6-v2", messages=[{"role": "user", "content": "x"}])


async def test_async_client(service: Service) -> None:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="x", max_retries=0) as client:
        reply = await client.embeddings.create(model="x", input=["hello world"])
    assert golden_cosine("hello world", reply.data[0].embedding) >= 0.999
