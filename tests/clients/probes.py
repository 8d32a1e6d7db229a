"""What each client library does with one base URL; a probe fails by raising.

Every probe embeds texts whose vectors are known or generates, with the library's defaults and nothing else
set than the address. The libraries are imported inside: some take a second, some warn.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filelock
import httpx
import pytest

from tests.support.golden import GOLDEN, golden_cosine

__all__ = ["NODE", "PROBES", "install_node_clients"]

TEXTS = list(GOLDEN)[:3]
MESSAGES: list[Any] = [{"role": "user", "content": "Say hello."}]
NODE = Path(__file__).parent.parent / ".cache" / "node"


def check(vectors: Sequence[Any], texts: Sequence[str] = TEXTS) -> None:
    """Raise unless these are the texts' known vectors."""
    assert len(vectors) == len(texts)
    for text, vector in zip(texts, vectors, strict=True):
        assert golden_cosine(text, vector) >= 0.999, text


def openai_embeddings(url: str) -> None:
    import openai

    for base in (f"{url}/v1", url):
        with openai.OpenAI(base_url=base, api_key="x") as client:
            check(
                [
                    d.embedding
                    for d in client.embeddings.create(model="text-embedding-3-small", input=TEXTS).data
                ]
            )
            check([client.embeddings.create(model="x", input=TEXTS[0]).data[0].embedding], TEXTS[:1])


def openai_chat(url: str) -> None:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-no-key-required") as client:
        reply = client.chat.completions.create(model="LLaMA_CPP", messages=MESSAGES, max_tokens=4)
        assert reply.choices[0].message.role == "assistant"
        chunks = list(client.chat.completions.create(model="x", messages=MESSAGES, max_tokens=4, stream=True))
        assert any(chunk.choices and chunk.choices[0].finish_reason for chunk in chunks)


def openai_completions(url: str) -> None:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        whole = client.completions.create(model="x", prompt="Say hello.", max_tokens=4)
        assert whole.choices[0].finish_reason in ("stop", "length")
        pieces = list(client.completions.create(model="x", prompt="Say hello.", max_tokens=4, stream=True))
        assert pieces[-1].choices[0].finish_reason in ("stop", "length")


def langchain_llamafile_embeddings(url: str) -> None:
    from langchain_community.embeddings import LlamafileEmbeddings

    client = LlamafileEmbeddings(base_url=url)
    check(client.embed_documents(TEXTS))
    check([client.embed_query(TEXTS[0])], TEXTS[:1])


def langchain_llamafile_llm(url: str) -> None:
    from langchain_community.llms.llamafile import Llamafile

    llm = Llamafile(base_url=url, n_predict=4, streaming=False)
    assert isinstance(llm.invoke("Say hello."), str)
    text = "".join(llm.stream("Say hello."))
    assert not any(wire in text for wire in ("data:", ": loading", ": keep-alive"))  # comments are no text


def llama_index_embeddings(url: str) -> None:
    from llama_index.embeddings.llamafile import LlamafileEmbedding

    client = LlamafileEmbedding(base_url=url)
    check(client.get_text_embedding_batch(TEXTS))
    check(client.get_text_embedding_batch(TEXTS[:1]), TEXTS[:1])
    check([client.get_query_embedding(TEXTS[0])], TEXTS[:1])


def llama_index_llm(url: str) -> None:
    from llama_index.core.base.llms.types import ChatMessage, MessageRole
    from llama_index.llms.llamafile import Llamafile

    llm = Llamafile(
        base_url=url, temperature=0.0, seed=1, additional_kwargs={"n_predict": 4, "max_tokens": 4}
    )
    assert isinstance(llm.complete("Say hello.").text, str)
    assert list(llm.stream_complete("Say hello."))
    messages = [ChatMessage(role=MessageRole.USER, content="Say hello.")]
    assert llm.chat(messages).message.role is MessageRole.ASSISTANT
    assert list(llm.stream_chat(messages))


def ollama_embeddings(url: str) -> None:
    import ollama

    client = ollama.Client(host=url)
    check(client.embed(model="my-embed-model", input=TEXTS).embeddings)
    check(
        client.embed(model="m", input=TEXTS[0], truncate=True, options={}, keep_alive="5m").embeddings,
        TEXTS[:1],
    )
    check([client.embeddings(model="m", prompt=TEXTS[0]).embedding], TEXTS[:1])
    assert client.list().models
    client.ps()
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.show("no-such-model-9f3c")


def ollama_chat(url: str) -> None:
    import ollama

    client = ollama.Client(host=url)
    options = {"num_predict": 4, "temperature": 0, "seed": 1}
    reply = client.chat(model="m", messages=MESSAGES, options=options)
    assert reply.message.role == "assistant"
    assert reply.done
    lines = list(client.chat(model="m", messages=MESSAGES, options=options, stream=True))
    assert lines[-1].done
    assert not lines[0].done
    assert client.generate(model="m", prompt="Say hello.", options=options).done
    assert list(client.generate(model="m", prompt="Say hello.", options=options, stream=True))[-1].done


def cohere_embeddings(url: str) -> None:
    import cohere

    old = cohere.Client(api_key="x", base_url=url)
    check(old.embed(texts=TEXTS, model="m", input_type="search_document").embeddings)
    new = cohere.ClientV2(api_key="x", base_url=url)
    reply = new.embed(texts=TEXTS, model="m", input_type="search_query", embedding_types=["float"])
    check(reply.embeddings.float_)


def voyage_embeddings(url: str) -> None:
    import voyageai

    client = voyageai.Client(api_key="x", base_url=f"{url}/v1")
    check(client.embed(TEXTS, model="m", input_type="document").embeddings)


def huggingface_hub_embeddings(url: str) -> None:
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=f"{url}/embed", token="x")
    check([row.tolist() for row in client.feature_extraction(TEXTS)])
    check([client.feature_extraction(TEXTS[0])[0].tolist()], TEXTS[:1])


def langchain_openai_embeddings(url: str) -> None:
    from langchain_openai import OpenAIEmbeddings

    client = OpenAIEmbeddings(base_url=f"{url}/v1", api_key="x", check_embedding_ctx_length=False)
    check(client.embed_documents(TEXTS))


def langchain_ollama_embeddings(url: str) -> None:
    from langchain_ollama import OllamaEmbeddings

    client = OllamaEmbeddings(model="m", base_url=url)
    check(client.embed_documents(TEXTS))
    check([client.embed_query(TEXTS[0])], TEXTS[:1])


def langchain_openai_chat(url: str) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=f"{url}/v1", api_key="x", model="m", max_tokens=4)
    assert isinstance(model.invoke("Say hello.").content, str)
    assert list(model.stream("Say hello."))


def langchain_ollama_chat(url: str) -> None:
    from langchain_ollama import ChatOllama

    model = ChatOllama(model="m", base_url=url, num_predict=4)
    assert isinstance(model.invoke("Say hello.").content, str)
    assert list(model.stream("Say hello."))


def litellm_embeddings(url: str) -> None:
    import litellm

    for model in ("llamafile/m", "openai/m"):
        for texts in (TEXTS, TEXTS[:1]):
            reply = litellm.embedding(model=model, input=texts, api_base=f"{url}/v1", api_key="sk-x")
            check([item["embedding"] for item in reply.data], texts)


def litellm_chat(url: str) -> None:
    import litellm

    def ask(**more: Any) -> Any:
        return litellm.completion(
            model="llamafile/m", messages=MESSAGES, api_base=f"{url}/v1", max_tokens=4, **more
        )

    assert ask().choices[0].message.role == "assistant"
    assert list(ask(stream=True))[-1].choices[0].finish_reason in ("stop", "length")
    whole = litellm.text_completion(
        model="text-completion-openai/m",
        prompt="Say hello.",
        max_tokens=4,
        api_base=f"{url}/v1",
        api_key="sk-x",
    )
    assert isinstance(whole.choices[0].text, str)


def any_llm_embeddings(url: str) -> None:
    import any_llm

    reply = any_llm.embedding("m", inputs=TEXTS, provider="llamacpp", api_base=f"{url}/v1", api_key="x")
    check([item.embedding for item in reply.data])


def any_llm_chat(url: str) -> None:
    import any_llm

    for provider in ("llamafile", "llamacpp"):
        reply = any_llm.completion(
            "m",
            messages=MESSAGES,
            provider=provider,
            api_base=f"{url}/v1",
            api_key="x",
            max_tokens=4,
        )
        assert reply.choices[0].message.role == "assistant"


def haystack_embeddings(url: str) -> None:
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret
    from haystack_integrations.components.embedders.ollama import OllamaDocumentEmbedder, OllamaTextEmbedder

    key = Secret.from_token("x")
    documents = [Document(content=text) for text in TEXTS]
    texts = OpenAITextEmbedder(api_key=key, model="m", api_base_url=f"{url}/v1")
    check([texts.run(TEXTS[0])["embedding"]], TEXTS[:1])
    many = OpenAIDocumentEmbedder(api_key=key, model="m", api_base_url=f"{url}/v1", progress_bar=False)
    found: list[Any] = many.run(documents)["documents"]
    check([document.embedding for document in found])
    check([OllamaTextEmbedder(model="m", url=url).run(TEXTS[0])["embedding"]], TEXTS[:1])
    ollama = OllamaDocumentEmbedder(model="m", url=url, progress_bar=False)
    check([document.embedding for document in ollama.run(documents)["documents"]])


def chroma_embeddings(url: str) -> None:
    import chromadb
    from chromadb.utils import embedding_functions

    functions: list[Any] = [
        embedding_functions.OpenAIEmbeddingFunction(api_key="x", model_name="m", api_base=f"{url}/v1"),
        embedding_functions.OllamaEmbeddingFunction(url=url, model_name="m"),
        embedding_functions.HuggingFaceEmbeddingServer(url=f"{url}/embed"),
    ]
    for function in functions:
        check(function(TEXTS))
        quiet = chromadb.config.Settings(anonymized_telemetry=False)
        collection = chromadb.EphemeralClient(quiet).create_collection(
            f"c{type(function).__name__}{url.rsplit(':', 1)[1]}", embedding_function=function
        )
        collection.add(ids=[str(number) for number in range(len(TEXTS))], documents=TEXTS)
        found = collection.query(query_texts=[TEXTS[1]], n_results=1)
        assert found["ids"] == [["1"]]


def run_llm(home: str, url: str, *arguments: str) -> str:
    own = {"LLM_USER_PATH": home, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "sk-x"}
    done = subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def llm_embeddings(url: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        printed = run_llm(home, url, "embed", "-m", "3-small", "-c", TEXTS[0])
    check([json.loads(printed)], TEXTS[:1])


def llm_chat(url: str) -> None:
    """Whole and streamed; an answer of the tiny model may be any text, but an error is none."""
    with tempfile.TemporaryDirectory() as home:
        model = {"model_id": "local", "model_name": "llamafile", "api_base": f"{url}/v1"}
        Path(home, "extra-openai-models.yaml").write_text(json.dumps([model]))  # JSON is YAML
        for more in ("--no-stream", "--no-log"):
            printed = run_llm(home, url, "-m", "local", "-o", "max_tokens", "4", "Say hello.", more)
            assert "Error" not in printed


def llama_index_other_embeddings(url: str) -> None:
    from llama_index.embeddings.ollama import OllamaEmbedding
    from llama_index.embeddings.openai import OpenAIEmbedding
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    for client in (
        OpenAIEmbedding(api_base=f"{url}/v1", api_key="x"),
        OllamaEmbedding(model_name="m", base_url=url),
        TextEmbeddingsInference(model_name="m", base_url=url, text_instruction="", query_instruction=""),
    ):
        check(client.get_text_embedding_batch(TEXTS))
        check([client.get_query_embedding(TEXTS[0])], TEXTS[:1])


def rare_dialects(url: str) -> None:
    """langroid, Emacs' llm, Infinity, llama-index' and chroma's TEI, curl: as their sources send it."""

    def post(path: str, body: dict[str, Any], **extra: Any) -> Any:
        reply = httpx.post(f"{url}{path}", json=body, timeout=60, **extra)
        assert reply.status_code == 200, reply.text
        return reply.json()

    check([post("/embeddings", {"content": TEXTS[0]})["embedding"]], TEXTS[:1])
    emacs = post("/embedding", {"input": TEXTS[0], "model": "unset"})
    check([emacs["embedding"], emacs["data"][0]["embedding"]], [TEXTS[0]] * 2)
    check([row["embedding"] for row in post("/embeddings", {"model": "m", "input": TEXTS})["data"]])
    check(post("/embed", {"inputs": TEXTS, "truncate": True}))
    check([row["embedding"][0] for row in post("/embedding?shape=list", {"content": TEXTS})])
    tokens = post("/tokenize", {"content": "hello world", "add_special": False})["tokens"]
    assert tokens
    form = {"content-type": "application/x-www-form-urlencoded"}
    curl = httpx.post(f"{url}/embedding", content='{"content": "a"}', headers=form, timeout=60)
    check([curl.json()["embedding"]], ["a"])


def _node(name: str, url: str) -> None:
    script = Path(__file__).parent / f"{name}.mjs"
    copy = NODE / script.name
    copy.write_text(script.read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(
        ["node", str(copy), url], capture_output=True, text=True, timeout=50, check=False, cwd=NODE
    )
    assert done.returncode == 0, done.stderr


def openai_node(url: str) -> None:
    _node("openai_node", url)


def ollama_node(url: str) -> None:
    _node("ollama_node", url)


def install_node_clients() -> bool:
    """Install the Node libraries once into the tests' cache; false where there is no Node."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return False
    NODE.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(NODE / "install.lock"):  # several test processes collect at once
        if not (NODE / "installed").exists():
            (NODE / "package.json").write_text('{"private": true}\n')
            subprocess.run(
                ["npm", "install", "--silent", "openai", "ollama"], cwd=NODE, check=True, timeout=90
            )
            (NODE / "installed").touch()
    return True


PROBES: dict[str, Callable[[str], None]] = {
    "openai embeddings": openai_embeddings,
    "openai chat": openai_chat,
    "openai completions": openai_completions,
    "langchain llamafile embeddings": langchain_llamafile_embeddings,
    "langchain llamafile llm": langchain_llamafile_llm,
    "llama-index llamafile embeddings": llama_index_embeddings,
    "llama-index llamafile llm": llama_index_llm,
    "ollama embeddings": ollama_embeddings,
    "ollama chat": ollama_chat,
    "cohere embeddings": cohere_embeddings,
    "voyage embeddings": voyage_embeddings,
    "huggingface_hub (TEI)": huggingface_hub_embeddings,
    "langchain-openai embeddings": langchain_openai_embeddings,
    "langchain-openai chat": langchain_openai_chat,
    "langchain-ollama embeddings": langchain_ollama_embeddings,
    "langchain-ollama chat": langchain_ollama_chat,
    "litellm embeddings": litellm_embeddings,
    "litellm chat": litellm_chat,
    "haystack embeddings": haystack_embeddings,
    "chroma embeddings": chroma_embeddings,
    "llm embed": llm_embeddings,
    "llm chat": llm_chat,
    "llama-index OpenAI, Ollama, TEI": llama_index_other_embeddings,
    "rare dialects": rare_dialects,
    "any-llm embeddings": any_llm_embeddings,
    "any-llm chat": any_llm_chat,
}
if install_node_clients():
    PROBES |= {"openai-node embeddings": openai_node, "ollama-js": ollama_node}

#: These libraries report home, or look up prices there, unless told not to.
os.environ |= {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "ANONYMIZED_TELEMETRY": "False",
}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what these packages say while they are imported is not ours to mend
    for _module in (
        "any_llm",
        "chromadb",
        "cohere",
        "haystack.components.embedders",
        "haystack_integrations.components.embedders.ollama",
        "langchain_community.embeddings",
        "langchain_community.llms.llamafile",
        "langchain_ollama",
        "langchain_openai",
        "litellm",
        "llama_index.embeddings.llamafile",
        "llama_index.embeddings.ollama",
        "llama_index.embeddings.openai",
        "llama_index.embeddings.text_embeddings_inference",
        "llama_index.llms.llamafile",
        "voyageai",
    ):
        __import__(_module)
