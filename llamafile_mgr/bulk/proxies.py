"""A running proxy of ours as a source of vectors."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np

from llamafile_mgr.bulk.records import Failure, TextResult
from llamafile_mgr.bulk.sources import EmbedSettings
from llamafile_mgr.errors import CheckpointError, EngineError, NotFoundError, NotReadyError, RequestError

__all__ = ["ProxySource", "running_proxy"]

_CONNECT_SECONDS, _ANSWER_SECONDS = 10.0, 3600.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 15.0
#: These say "not now": the same request may succeed later.
_LATER = frozenset({"busy", "not_ready", "deadline"})
_TOO_LARGE, _OTHER_SPACE, _FORBIDDEN = 413, 409, (401, 403)


class ProxySource:
    """Vectors over HTTP. ``patience_seconds``: how long a proxy may be away or busy."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        settings: EmbedSettings,
        entry: dict[str, Any],
        patience_seconds: float,
    ) -> None:
        meta = entry["meta"]
        self._client = client
        self._patience_seconds = patience_seconds
        self.model = str(entry["id"])
        self.vector_space = str(meta["vector_space"])
        self.dimensions: int | None = settings.dimensions or meta.get("dimensions")
        self.exact = meta.get("slots") == 1 and not settings.use_cache
        body = {
            "model": self.model,
            "encoding_format": "base64",
            "keep_going": True,
            "truncate": settings.truncation.value,
            "input_type": settings.input_type.value if settings.input_type else None,
            "task": None,
            "instruction": settings.task,
            "dimensions": settings.dimensions,
            "use_cache": settings.use_cache,
        }
        self._body = {key: value for key, value in body.items() if value is not None}

    async def embed(self, texts: Sequence[str]) -> list[TextResult]:
        """Return one result per text. Raises what ``VectorSource`` says."""
        status, answer = await _ask(
            self._client,
            "POST",
            "/v1/embeddings",
            self._patience_seconds,
            body={**self._body, "input": list(texts)},
            headers={"If-Vector-Space": self.vector_space},
        )
        if status == _TOO_LARGE:
            if len(texts) == 1:
                return [TextResult(failure=Failure("body_too_large", _message(answer)))]
            half = len(texts) // 2
            return await self.embed(texts[:half]) + await self.embed(texts[half:])
        if status == _OTHER_SPACE:
            raise CheckpointError(
                f"the proxy's vectors changed: {_message(answer)}", hint="begin the job anew with --restart"
            )
        items = answer.get("data") if status == 200 else None
        if not isinstance(items, list) or len(items) != len(texts):
            raise RequestError(f"the proxy refused the texts ({status}): {_message(answer)}")
        return [_read_item(item) for item in items]


@asynccontextmanager
async def running_proxy(
    url: str,
    settings: EmbedSettings,
    *,
    model: str | None = None,
    api_key: str | None = None,
    patience_seconds: float = 300.0,
) -> AsyncIterator[ProxySource]:
    """Use the proxy at ``url`` while inside; ``model`` None takes its only embedding model, or the first.

    Raises:
        NotReadyError: it did not answer.
        NotFoundError: it does not serve the model, or is no llamafile-mgr.
        RequestError: it wants another API key.
    """
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
    async with httpx.AsyncClient(
        base_url=url.rstrip("/").removesuffix("/v1"), headers=headers, timeout=timeout, trust_env=False
    ) as client:
        status, answer = await _ask(client, "GET", "/v1/models", min(patience_seconds, 10.0))
        if status in _FORBIDDEN:
            raise RequestError(f"{url} refuses us: {_message(answer)}", hint="name a key with --api-key")
        yield ProxySource(client, settings, _find_model(answer, model, url), patience_seconds)


def _find_model(answer: dict[str, Any], model: str | None, url: str) -> dict[str, Any]:
    entries = [entry for entry in answer.get("data") or () if isinstance(entry, dict)]
    ours = [entry for entry in entries if (entry.get("meta") or {}).get("vector_space")]
    found = next((entry for entry in ours if model in (None, entry["id"])), None)
    if found is None:
        names = ", ".join(str(entry["id"]) for entry in ours) or "no embedding model of llamafile-mgr"
        raise NotFoundError(f"{url} serves {names}" + (f", not {model}" if model else ""))
    return found


async def _ask(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    patience_seconds: float,
    *,
    body: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Return status and JSON, asking again while the proxy is away or busy.

    Raises:
        NotReadyError: it stayed so.
        EngineError: what answers there speaks no JSON.
    """
    end, pause = time.monotonic() + patience_seconds, _FIRST_PAUSE_SECONDS
    while True:
        try:
            reply = await client.request(method, path, json=body, headers=headers)
            answer = reply.json()
        except httpx.TransportError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                raise NotReadyError(
                    f"the certificate of {client.base_url} is not trusted: {error}"
                ) from error
            said = f"{client.base_url} does not answer: {error or type(error).__name__}"
        except ValueError as error:
            raise EngineError(f"{client.base_url} answered no JSON ({reply.status_code})") from error
        else:
            answer = answer if isinstance(answer, dict) else {}
            if _code(answer) not in _LATER:
                return reply.status_code, answer
            said = _message(answer)
        if time.monotonic() + pause > end:
            raise NotReadyError(said, hint="run the same command again: what is done is kept")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _code(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    return str(error.get("code")) if isinstance(error, dict) else ""


def _message(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    return str(error.get("message")) if isinstance(error, dict) else "it gave no reason"


def _read_item(item: Any) -> TextResult:
    """Return what the proxy says of one text. Raises EngineError for nonsense."""
    try:
        if item.get("error") is not None:
            return TextResult(failure=Failure(str(item["error"]["code"]), str(item["error"]["message"])))
        vector = np.frombuffer(base64.b64decode(item["embedding"], validate=True), "<f4")
        return TextResult(vector.astype(np.float32, copy=False), truncated=item.get("truncated"))
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise EngineError(f"the proxy gave no vector: {error}") from error
