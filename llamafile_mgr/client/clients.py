"""The two clients: they send what the exchanges say, over httpx."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload
from urllib.parse import urlsplit

import httpx

from llamafile_mgr.client import operations as calls
from llamafile_mgr.client.conversation import Exchange, Outcome, Send
from llamafile_mgr.client.values import EmbedArguments, Embeddings, ModelInfo, Ranked
from llamafile_mgr.errors import UsageError
from llamafile_mgr.web_access import check_token, is_loopback, make_trust, proxy_for

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_T = TypeVar("_T")

#: A call is held while its model loads, so an answer may take its time.
TIMEOUT_SECONDS = 600.0
RETRIES = 4
_CONNECT_SECONDS = 5.0
_SCHEMES = ("http", "https")


class Client:
    """Asks a running server. Close it, or use it in a ``with`` block; threads may share one.

    ``url``: the proxy's address, with or without ``/v1``. ``timeout_seconds``: the longest silence.
    ``retries``: how often a call is sent again that met a full queue, a model that is not ready or a lost
    connection; the server's ``Retry-After`` says when.

    Every method raises an ``Error`` of ``llamafile_mgr.errors``: ``NotReadyError`` when nobody answers or the
    model is not ready, ``NotFoundError`` for an unknown model, ``InputTooLongError``, ``RequestError``.

    Raises:
        UsageError: ``url`` is no address.
        ConfigError: no header can carry the key, or the environment's proxy or certificates cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries: int = RETRIES,
    ) -> None:
        settings = _settings(url, api_key, timeout_seconds)
        self.url = settings.pop("base_url")
        self._retries = retries
        self._http = httpx.Client(base_url=self.url, **settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @overload
    def embed(
        self, texts: Sequence[str], *, as_numpy: Literal[False] = False, **how: Unpack[EmbedArguments]
    ) -> list[list[float]]: ...

    @overload
    def embed(
        self, texts: Sequence[str], *, as_numpy: Literal[True], **how: Unpack[EmbedArguments]
    ) -> NDArray[np.float32]: ...

    def embed(
        self, texts: Sequence[str], *, as_numpy: bool = False, **how: Unpack[EmbedArguments]
    ) -> list[list[float]] | NDArray[np.float32]:
        """Return a vector a text: lists of floats, or with ``as_numpy`` a float32 array (texts, dimensions).

        The other arguments are those of ``EmbedArguments``. One text that cannot be embedded fails the call;
        ``embed_all`` tells of each instead.
        """
        return _shape(self._run(calls.embed(texts, self._retries, **how)), as_numpy)

    def embed_all(
        self, texts: Sequence[str], *, return_chunks: bool = False, **how: Unpack[EmbedArguments]
    ) -> Embeddings:
        """Return vectors and, for texts that have none, the error of each.

        ``return_chunks``: with ``truncate="chunk"``, tell the pieces of each text and their vectors.
        The other arguments are those of ``EmbedArguments``.
        """
        exchange = calls.embed(texts, self._retries, keep_going=True, return_chunks=return_chunks, **how)
        return self._run(exchange)

    def embed_one(self, text: str, **how: Unpack[EmbedArguments]) -> list[float]:
        """Return the vector of one text."""
        return self.embed([text], **how)[0]

    def rerank(
        self, query: str, documents: Sequence[str], *, model: str | None = None, top_n: int | None = None
    ) -> list[Ranked]:
        """Return documents by how well they answer the query, the best first; needs a model that reranks."""
        return self._run(calls.rerank(query, documents, model, top_n, self._retries))

    def models(self) -> list[ModelInfo]:
        """Return what is served."""
        return self._run(calls.models(self._retries))

    def health(self) -> dict[str, Any]:
        """Return what the server says of itself: ``status`` and ``version``."""
        return self._run(calls.health(self._retries))

    def vector_space(self, model: str | None = None) -> str:
        """Return the fingerprint of the embedding model's vectors, to keep with an index."""
        return self._run(calls.vector_space(model, self._retries))

    def _run(self, exchange: Exchange[_T]) -> _T:
        outcome: Outcome = None
        while True:
            try:
                step = exchange.send(outcome)
            except StopIteration as end:
                value: _T = end.value
                return value
            if isinstance(step, Send):
                try:
                    outcome = self._http.request(
                        step.method, step.path, content=step.body, headers=step.headers
                    )
                except httpx.HTTPError as error:
                    outcome = error
            else:
                time.sleep(step)
                outcome = None


class AsyncClient:
    """``Client`` for asyncio: the same methods and errors, awaited. Use it in an ``async with`` block."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries: int = RETRIES,
    ) -> None:
        settings = _settings(url, api_key, timeout_seconds)
        self.url = settings.pop("base_url")
        self._retries = retries
        self._http = httpx.AsyncClient(base_url=self.url, **settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @overload
    async def embed(
        self, texts: Sequence[str], *, as_numpy: Literal[False] = False, **how: Unpack[EmbedArguments]
    ) -> list[list[float]]: ...

    @overload
    async def embed(
        self, texts: Sequence[str], *, as_numpy: Literal[True], **how: Unpack[EmbedArguments]
    ) -> NDArray[np.float32]: ...

    async def embed(
        self, texts: Sequence[str], *, as_numpy: bool = False, **how: Unpack[EmbedArguments]
    ) -> list[list[float]] | NDArray[np.float32]:
        """Return a vector a text, as ``Client.embed`` does."""
        return _shape(await self._run(calls.embed(texts, self._retries, **how)), as_numpy)

    async def embed_all(
        self, texts: Sequence[str], *, return_chunks: bool = False, **how: Unpack[EmbedArguments]
    ) -> Embeddings:
        """Return vectors and the error of each text that has none, as ``Client.embed_all`` does."""
        exchange = calls.embed(texts, self._retries, keep_going=True, return_chunks=return_chunks, **how)
        return await self._run(exchange)

    async def embed_one(self, text: str, **how: Unpack[EmbedArguments]) -> list[float]:
        """Return the vector of one text."""
        return (await self.embed([text], **how))[0]

    async def rerank(
        self, query: str, documents: Sequence[str], *, model: str | None = None, top_n: int | None = None
    ) -> list[Ranked]:
        """Return documents by how well they answer the query, the best first; needs a model that reranks."""
        return await self._run(calls.rerank(query, documents, model, top_n, self._retries))

    async def models(self) -> list[ModelInfo]:
        """Return what is served."""
        return await self._run(calls.models(self._retries))

    async def health(self) -> dict[str, Any]:
        """Return what the server says of itself: ``status`` and ``version``."""
        return await self._run(calls.health(self._retries))

    async def vector_space(self, model: str | None = None) -> str:
        """Return the fingerprint of the embedding model's vectors, to keep with an index."""
        return await self._run(calls.vector_space(model, self._retries))

    async def _run(self, exchange: Exchange[_T]) -> _T:
        outcome: Outcome = None
        while True:
            try:
                step = exchange.send(outcome)
            except StopIteration as end:
                value: _T = end.value
                return value
            if isinstance(step, Send):
                try:
                    outcome = await self._http.request(
                        step.method, step.path, content=step.body, headers=step.headers
                    )
                except httpx.HTTPError as error:
                    outcome = error
            else:
                await asyncio.sleep(step)
                outcome = None


def _settings(url: str, api_key: str | None, timeout_seconds: float) -> dict[str, Any]:
    base = url.rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(base)
        usable = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"{url!r} is no address of a server", hint="such as http://127.0.0.1:8080")
    key = check_token(api_key, "the API key") if api_key else None
    # A web proxy of the environment cannot reach our loopback address.
    proxy = None if is_loopback(parts.hostname or "") else proxy_for(base)
    by_tls = proxy is not None and proxy.startswith("https:")
    trust = make_trust() if by_tls or parts.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return {
        "base_url": base,
        "headers": {"authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
        "verify": trust,
        "proxy": None if proxy is None else httpx.Proxy(proxy, ssl_context=trust if by_tls else None),
        "trust_env": False,
    }


def _shape(found: Embeddings, as_numpy: bool) -> list[list[float]] | NDArray[np.float32]:
    if as_numpy:
        return found.as_numpy()
    return [vector for vector in found.vectors if vector is not None]
