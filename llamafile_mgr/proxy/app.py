"""The HTTP front as an ASGI application: routes, errors, and nothing that depends on an engine's kind."""

from __future__ import annotations

import ipaddress
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.cache_thread import CacheThread
from llamafile_mgr.embedding.service import Embedder, EmbedOptions
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.errors import (
    Error,
    InternalError,
    NotReadyError,
    RequestError,
    UnknownRouteError,
    WrongMethodError,
)
from llamafile_mgr.proxy.dialects import llamafile, openai
from llamafile_mgr.proxy.generation import StreamCutError, generate
from llamafile_mgr.proxy.http import (
    ClientGoneError,
    Receive,
    Reply,
    Request,
    Scope,
    Send,
    StreamReply,
    json_reply,
    read_body,
    run_until_disconnect,
    send_reply,
    send_stream,
)
from llamafile_mgr.proxy.routing import choose_pool, model_headers
from llamafile_mgr.proxy.status import render_models, render_ready
from llamafile_mgr.supervisor.supervisor import Supervisor

__all__ = ["Proxy", "ProxyOptions"]

_LOG = logging.getLogger("llamafile_mgr.proxy")
_SPACE_HEADER = "x-vector-space"

Handler = Callable[[Request], Awaitable[Reply | StreamReply]]


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """``wait_seconds``: how long a call is held while its model loads. ``hosts``: names that a Host header
    may carry besides loopback's own. ``embedding``: the configured defaults of embedding calls."""

    max_body_bytes: int
    wait_seconds: float = 600.0
    hosts: frozenset[str] = frozenset()
    embedding: EmbedOptions = field(default_factory=EmbedOptions)


class Proxy:
    """The application. It reads pools and never changes them."""

    def __init__(
        self, supervisor: Supervisor, options: ProxyOptions, cache: CacheThread | None = None
    ) -> None:
        self._pools = supervisor.pools
        self._options = options
        self._embedders = {
            pool.plan.name: Embedder(
                pool, wait_seconds=options.wait_seconds, options=options.embedding, cache=cache
            )
            for pool in supervisor.pools
            if pool.plan.role is Role.EMBED
        }
        self._started = int(time.time())
        self._routes = self._make_routes()

    def _make_routes(self) -> dict[str, dict[str, Handler]]:
        """Return path -> method -> handler."""
        get: dict[str, Handler] = {
            "/health": self._health,
            "/v1/health": self._health,
            "/ready": self._ready,
            "/v1/models": self._models,
            "/models": self._models,
        }
        post: dict[str, Handler] = {
            "/v1/embeddings": self._embed,
            "/embeddings": self._embed,
            "/embedding": self._embed,
            "/tokenize": self._tokenize,
            "/completion": self._generate,
            "/v1/completions": self._generate,
            "/v1/chat/completions": self._generate,
        }
        return {
            **{path: {"GET": handler, "HEAD": handler} for path, handler in get.items()},
            **{path: {"POST": handler} for path, handler in post.items()},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3, HTTP only)."""
        if scope["type"] != "http":
            return
        request_id = secrets.token_hex(8)
        try:
            await self._answer(scope, receive, send, request_id)
        except (ClientGoneError, StreamCutError):
            _LOG.info("%s %s: ended early", request_id, scope["path"])

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method, path = scope["method"], scope["path"]
        try:
            self._check_origin(headers)
            handler = self._find_handler(method, path)
            body = await read_body(receive, headers, self._options.max_body_bytes)
            request = Request(method, path, headers, body)
            reply: Reply | StreamReply | None = None

            async def work() -> None:
                nonlocal reply
                reply = await handler(request)

            await run_until_disconnect(work(), receive)
            assert reply is not None  # noqa: S101
        except Error as error:
            if error.http_status >= 500:
                _LOG.warning("%s %s %s: %s", request_id, method, path, error.describe())
            reply = _error_reply(error)
        except ClientGoneError:
            raise
        except Exception:  # the request boundary: one broken request must not end the service
            _LOG.exception("%s %s %s: defect", request_id, method, path)
            reply = _error_reply(InternalError("the proxy failed on this request", hint=f"id {request_id}"))
        await _send(reply, {"x-request-id": request_id}, receive, send, head=method == "HEAD")

    def _find_handler(self, method: str, path: str) -> Handler:
        methods = self._routes.get(path.rstrip("/") or "/")
        if methods is None:
            known = ", ".join(sorted(self._routes))
            raise UnknownRouteError(f"there is no route {path[:200]}", hint=f"routes: {known}")
        if method not in methods:
            raise WrongMethodError(f"{path} takes {' and '.join(methods)}, not {method}")
        return methods[method]

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse names that a web page could have made to point here (DNS rebinding), and web pages.

        Raises:
            RequestError: a Host that is no loopback name, or an Origin that is another site.
        """
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise _ForeignHostError(f"this proxy does not answer for the host {host[:100]!r}")
        origin = headers.get("origin")
        if origin is not None and not self._is_ours(origin.partition("://")[2]):
            raise _ForeignHostError(f"this proxy does not answer pages of {origin[:100]!r}")

    def _is_ours(self, authority: str) -> bool:
        name = authority.rsplit(":", 1)[0] if not authority.endswith("]") else authority
        name = name.strip("[]").lower()
        if name == "localhost" or name in self._options.hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    async def _health(self, request: Request) -> Reply:
        return json_reply({"status": "ok", "version": __version__})

    async def _ready(self, request: Request) -> Reply:
        ready, body = render_ready([pool.snapshot() for pool in self._pools])
        return json_reply(body, status=200 if ready else NotReadyError.http_status)

    async def _models(self, request: Request) -> Reply:
        spaces = {name: embedder.vector_space for name, embedder in self._embedders.items()}
        return json_reply(render_models(self._pools, spaces, self._started))

    async def _embed(self, request: Request) -> Reply:
        """Answer an embedding call; the body's key names the dialect, the path only breaks ties."""
        body = request.json_object()
        pool = choose_pool(self._pools, Role.EMBED, body)
        embedder = self._embedders[pool.plan.name]
        answer: dict[str, Any]
        if "input" not in body and "content" in body:
            old = llamafile.parse_embedding(body)
            result = await embedder.embed(old.request)
            answer = llamafile.render_embedding(old, result)
        else:
            call = openai.parse_embeddings(body)
            result = await embedder.embed(call.request)
            answer = openai.render_embeddings(call, result, pool.plan.name)
            if request.path.rstrip("/") == "/embedding" and len(result.vectors) == 1:
                answer["embedding"] = result.vectors[0]
        return json_reply(answer, headers={_SPACE_HEADER: result.vector_space, **model_headers(pool, body)})

    async def _tokenize(self, request: Request) -> Reply:
        body = request.json_object()
        text = body.get("content", "")
        if not isinstance(text, str):
            raise RequestError("'content' must be a text")
        role = Role.EMBED if self._embedders else Role.GENERATE
        pool = choose_pool(self._pools, role, body)
        rules = family_rules(pool.plan.family)
        reply = await pool.call(
            rules.tokenize(text), wait_seconds=self._options.wait_seconds, deadline_seconds=60.0
        )
        return json_reply({"tokens": rules.read_tokens(reply)}, headers=model_headers(pool, body))

    async def _generate(self, request: Request) -> Reply | StreamReply:
        body = request.json_object()
        pool = choose_pool(self._pools, Role.GENERATE, body)
        return await generate(pool, request.path.rstrip("/"), body, self._options.wait_seconds)


class _ForeignHostError(RequestError):
    """The request names a host or an origin that is not ours."""

    http_status = 403
    code = "forbidden_host"


def _error_reply(error: Error) -> Reply:
    headers = {}
    if isinstance(error, NotReadyError):
        headers["retry-after"] = str(math.ceil(error.retry_after_seconds))
    return json_reply(openai.render_error(error), status=error.http_status, headers=headers)


async def _send(
    reply: Reply | StreamReply, extra: dict[str, str], receive: Receive, send: Send, *, head: bool
) -> None:
    headers = {**reply.headers, **extra}
    if isinstance(reply, StreamReply):
        stream = StreamReply(reply.status, reply.content_type, reply.chunks, headers)
        try:
            await run_until_disconnect(send_stream(send, stream), receive)
        finally:
            await reply.chunks.aclose()  # type: ignore[attr-defined]
        return
    body = b"" if head else reply.body
    await send_reply(send, Reply(reply.status, body, reply.content_type, headers))
