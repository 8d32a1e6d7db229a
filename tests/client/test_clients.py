"""Both clients against the real engine."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from typing import Any

import httpx
import numpy as np
import pytest

import llamafile_mgr
from llamafile_mgr.errors import (
    ConfigError,
    InputTooLongError,
    NotFoundError,
    NotReadyError,
    RequestError,
    UsageError,
    VectorSpaceError,
)
from tests.support.golden import golden_cosine
from tests.support.service import Service

MODEL = "all-minilm-l6-v2"
LONG = "word " * 2000


def test_client(service: Service) -> None:
    with llamafile_mgr.Client(f"{service.url}/v1") as client:
        assert client.health()["status"] == "ok"
        embed = next(model for model in client.models() if model.role == "embed")
        assert (embed.name, embed.dimensions, embed.ready) == (MODEL, 384, True)
        space = client.vector_space()
        assert space == embed.vector_space
        lists = client.embed(["hello world", "second"], if_vector_space=space)
        assert golden_cosine("hello world", lists[0]) >= 0.999
        array = client.embed(["hello world", "second"], as_numpy=True)
        assert array.shape == (2, 384)
        assert array.dtype == np.float32
        assert array.tolist() == lists
        assert client.embed_one("hello world") == lists[0]
        found = client.embed_all(["hello world", LONG, "second"])
        assert [error.index for error in found.errors] == [1]
        assert found.errors[0].code == "context_length_exceeded"
        assert [row is None for row in found.vectors] == [False, True, False]
        cut = client.embed_all([LONG], truncate="right")
        assert (cut.truncated, cut.errors, cut.chunks) == ((0,), (), ())


def test_chunks_cover_the_texts_and_are_their_own_vectors(service: Service) -> None:
    text = " ".join(f"sentence number {n}." for n in range(400))
    with llamafile_mgr.Client(service.url) as client:
        found = client.embed_all([text, "short"], truncate="chunk", return_chunks=True)
        long, short = found.chunks
        assert (short[0].start, short[0].end, short[0].vector) == (0, 5, found.vectors[1])
        assert len(long) > 2
        assert [long[0].start, long[-1].end] == [0, len(text)]
        assert all(after.start <= before.end for before, after in itertools.pairwise(long))
        assert client.embed([text[long[1].start : long[1].end]]) == [pytest.approx(long[1].vector, abs=1e-5)]
        with pytest.raises(RequestError, match="truncate"):
            client.embed_all([text], return_chunks=True)


def test_errors(service: Service) -> None:
    with llamafile_mgr.Client(service.url, retries=0) as client:
        with pytest.raises(InputTooLongError):
            client.embed([LONG])
        with pytest.raises(VectorSpaceError):
            client.embed(["a"], if_vector_space="other")
        with pytest.raises(RequestError, match="input_type"):
            client.embed(["a"], input_type="sonnet")
        with pytest.raises(NotFoundError):
            client.vector_space("other")
        with pytest.raises(RequestError, match="no model to rerank"):
            client.rerank("q", ["a"])
        wrong: list[tuple[Any, str]] = [
            (["a", None], "text 1 .* NoneType"),
            (b"bytes", "list of texts"),
            (["\ud800"], "half a character at 0"),
        ]
        for texts, says in wrong:
            with pytest.raises(UsageError, match=says):
                client.embed(texts)
        assert len(client.embed(text for text in "ab")) == 2  # type: ignore[call-overload]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        llamafile_mgr.Client(f"http://127.0.0.1:{port}", retries=1) as client,
        pytest.raises(NotReadyError, match="does not answer"),
    ):
        client.health()


async def test_async_client(service: Service) -> None:
    async with llamafile_mgr.AsyncClient(service.url) as client:
        assert (await client.health())["status"] == "ok"
        space = await client.vector_space(MODEL)
        array = await client.embed(["hello world"] * 600, as_numpy=True, if_vector_space=space)
        assert array.shape == (600, 384)
        assert golden_cosine("hello world", array[599].tolist()) >= 0.999
        found = await client.embed_all(["a", LONG])
        assert [error.index for error in found.errors] == [1]
        assert len(await client.embed_one("a", truncate="error")) == 384
        assert {model.role for model in await client.models()} == {"embed", "generate"}
        with pytest.raises(llamafile_mgr.Error):
            await client.rerank("q", ["a"])


def test_a_web_proxy_is_not_asked_for_loopback(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with llamafile_mgr.Client(service.url) as client:
        assert client.health()["status"] == "ok"
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://192.0.2.1/")


@pytest.mark.parametrize("make", [llamafile_mgr.Client, llamafile_mgr.AsyncClient])
@pytest.mark.parametrize(
    ("variables", "url", "key", "message"),
    [
        ({"ALL_PROXY": "socks5://p:1"}, "http://192.0.2.1", None, "SOCKS needs one more package"),
        ({"HTTP_PROXY": "http://["}, "http://192.0.2.1", None, "cannot be used"),
        ({"SSL_CERT_FILE": "/none.pem"}, "https://192.0.2.1", None, "SSL_CERT_FILE names /none.pem"),
        ({}, "http://192.0.2.1", "k\u00e4y", "the API key has characters that no token has"),
        ({}, "http://192.0.2.1", "a\r\nb: c", "the API key has characters that no token has"),
        ({}, "http://[::", None, "is no address of a server"),
        ({}, "http://a:x", None, "is no address of a server"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch,
    make: type[llamafile_mgr.Client | llamafile_mgr.AsyncClient],
    variables: dict[str, str],
    url: str,
    key: str | None,
    message: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((ConfigError, UsageError), match=message):
        make(url, api_key=key)


@pytest.mark.parametrize("exempt", ["::1", "[::1]", "fd00::/8, 10.0.0.0/8", "*"])
def test_exemptions_from_web_proxies_may_be_addresses_and_networks(
    monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks4://p:1")
    monkeypatch.setenv("NO_PROXY", exempt)
    for url in {"fd00::/8, 10.0.0.0/8": ["http://10.1.2.3", "http://[fd00::1]"]}.get(
        exempt, ["http://[::1]"]
    ):
        llamafile_mgr.Client(url).close()


def test_lists_need_no_numpy(service: Service) -> None:
    code = (
        "import sys, llamafile_mgr\n"
        f"with llamafile_mgr.Client({service.url!r}) as client: client.embed(['a'])\n"
        "print('numpy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
