"""The HTTP front: the routes and their dispatch, and nothing that knows a dialect."""

from __future__ import annotations

import logging
import math
import os
import re
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from functools import partial

from llamafile_mgr.config import ServeConfig
from llamafile_mgr.errors import (
    Error,
    InternalError,
    NotReadyError,
    RequestError,
    UnknownRouteError,
    VectorSpaceError,
    WrongMethodError,
)
from llamafile_mgr.proxy.api_errors import CodedBodyError, MisdirectedError
from llamafile_mgr.proxy.delivery import Delivery
from llamafile_mgr.proxy.dialects.dialect import Dialect, Route
from llamafile_mgr.proxy.exchange import Exchange
from llamafile_mgr.proxy.front import Front, RecentError
from llamafile_mgr.proxy.guard import Guard
from llamafile_mgr.proxy.http import (
    ClientGoneError,
    Reply,
    Request,
    StreamCutError,
    StreamReply,
    json_reply,
)
from llamafile_mgr.proxy.keys import KeyRing
from llamafile_mgr.proxy.openapi import render_openapi
from llamafile_mgr.proxy.request_log import LogEntry, log_request
from llamafile_mgr.proxy.routes.embedding import SPACE_HEADER
from llamafile_mgr.proxy.routes.pages import PAGE_ROUTES

_LOG = logging.getLogger("llamafile_mgr.proxy")
#: Time for what keeps a connection alive to arrive.
_BEFORE_TIMEOUT_SECONDS = 5.0
_ABSOLUTE = re.compile(r"(https?)://([^/?#@]+)(/.*)?", re.IGNORECASE)
_SLASHES = re.compile("//+")
_MAX_FIELDS = 32
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def own_dialect(dialects: Sequence[Dialect]) -> Dialect:
    """Return what the proxy answers by itself beside these dialects: pages, health and what is described."""

    async def openapi(front: Front, request: Request) -> Reply:
        return document

    own = Dialect("llamafile-mgr", (*PAGE_ROUTES, Route("GET", "/openapi.json", openapi)))
    document = json_reply(render_openapi((own, *dialects)))
    return own


def _silence_seconds(route: Route, request: Request) -> float:
    """Return after how many seconds the connection is kept alive: before its client gives up, and no earlier,
    since what is sent then takes the status away from a refusal."""
    announced = request.read_timeout_seconds
    if announced is None:
        return route.hold_seconds
    return announced - min(_BEFORE_TIMEOUT_SECONDS, announced / 2)


def _split_target(target: bytes, method: str, scheme: str) -> tuple[str, dict[str, str], str | None]:
    """Return a target's path, without a slash at its end and doubled ones, its query, and its authority where
    it has one (RFC 9112, 3.2).

    Raises:
        RequestError: it has none of the forms, or more fields than any route reads.
        MisdirectedError: it is for another scheme.
    """
    raw, mark, query = target.decode("latin-1").partition("?")
    authority: str | None = None
    if not raw.startswith("/") and not (raw == "*" and method == "OPTIONS" and not mark):
        parts = _ABSOLUTE.fullmatch(raw)
        if parts is None:
            raise RequestError("the request's target is neither a path nor an http address")
        if parts[1].lower() != scheme:
            raise MisdirectedError(f"this is no {parts[1]} connection")
        authority, raw = parts[2], parts[3] or ("/" if method != "OPTIONS" or mark else "*")
    if "#" in raw or "#" in query:
        raise RequestError("a request's target has no fragment")
    path = urllib.parse.unquote(raw) if "%" in raw else raw
    if "//" in path:
        path = _SLASHES.sub("/", path)
    try:
        found = urllib.parse.parse_qsl(query, max_num_fields=_MAX_FIELDS) if query else []
    except ValueError as error:
        raise RequestError(f"the query has more than {_MAX_FIELDS} fields") from error
    return path.rstrip("/") or "/", dict(found), authority


class Proxy:
    """The application."""

    def __init__(self, front: Front, keys: KeyRing | None = None) -> None:
        self._front = front
        self._keys = keys or KeyRing()
        self._guard = Guard.of(front.settings)
        self._own = own_dialect(front.dialects)
        self._routes: dict[str, dict[str, tuple[Dialect, Route]]] = {}
        for dialect in (self._own, *front.dialects):
            for route in dialect.routes:
                methods = self._routes.setdefault(route.path, {})
                methods[route.method] = dialect, route
                if route.method == "GET":
                    methods["HEAD"] = dialect, route

    def apply(self, settings: ServeConfig, keys: KeyRing) -> None:
        """Let in from now on who these settings and keys let in."""
        self._guard, self._keys = Guard.of(settings), keys

    async def answer(self, exchange: Exchange) -> None:
        """Answer one request."""
        began = time.monotonic()
        given = exchange.headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else os.urandom(8).hex()
        entry = LogEntry(request_id, exchange.method, "")
        delivery = Delivery(exchange, {"x-request-id": request_id})
        try:
            await self._answer(exchange, delivery, entry)
        except (ClientGoneError, StreamCutError) as end:
            entry.status = 499 if isinstance(end, ClientGoneError) else entry.status
            _LOG.info("%s %s: ended early", request_id, entry.path)
        finally:
            entry.seconds = time.monotonic() - began
            log_request(self._front.metrics, entry, exchange.headers)

    async def _answer(self, exchange: Exchange, delivery: Delivery, entry: LogEntry) -> None:
        dialect, request = self._own, None
        reply: Reply | StreamReply
        try:
            entry.path, query, authority = _split_target(exchange.target, exchange.method, exchange.scheme)
            delivery.headers |= self._guard.check(exchange.headers, exchange.scheme, authority)
            if exchange.method == "OPTIONS":
                preflight = {**self._guard.preflight(exchange.headers), "allow": self._allow(entry.path)}
                entry.status = await delivery.send(Reply(204, b"", headers=preflight))
                return
            dialect, route = self._find_route(exchange.method, entry.path)
            entry.route = route.path
            request = await self._read(exchange, route, entry, query)
            handler = partial(route.answer, self._front)
            reply = await delivery.hold(handler, request, _silence_seconds(route, request))
        except Error as error:
            reply = self._refuse(error, dialect, request, entry)
            entry.error = error.code
        except ClientGoneError:
            raise
        except Exception:  # the request boundary: one broken request must not end the service
            _LOG.exception("%s %s %s: defect", entry.request_id, entry.method, entry.path)
            defect = InternalError("the proxy failed on this request", hint=f"id {entry.request_id}")
            reply = self._refuse(defect, dialect, request, entry)
            entry.error = defect.code
        entry.status = reply.status
        await delivery.send(reply)

    async def _read(
        self, exchange: Exchange, route: Route, entry: LogEntry, query: Mapping[str, str]
    ) -> Request:
        settings, headers = self._front.settings, exchange.headers
        name = "" if route.public else self._keys.identify(headers, admin=route.admin)
        coding = headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            raise CodedBodyError(f"the body is coded as {coding[:50]!r}", hint="send it as it is")
        body = await exchange.read_body(settings.max_body_bytes, settings.body_idle_seconds)
        return Request(
            exchange.method,
            entry.path,
            headers,
            body,
            query,
            name or f"{exchange.address} {headers.get('user-agent', '')[:80]}",
            entry.request_id,
            entry.progress,
            not route.public or self._keys.knows(headers),
        )

    def _methods(self, path: str) -> dict[str, tuple[Dialect, Route]]:
        """Return what answers ``path``, by method; nothing where there is no such route."""
        methods = self._routes.get(path)
        if methods is None:
            named = (known for known in self._routes if known.endswith("{name}"))
            methods = next((self._routes[k] for k in named if path.startswith(k.removesuffix("{name}"))), {})
        return methods

    def _allow(self, path: str) -> str:
        return ", ".join(["OPTIONS", *self._methods(path)])

    def _find_route(self, method: str, path: str) -> tuple[Dialect, Route]:
        methods = self._methods(path)
        if not methods:
            known = ", ".join(sorted(self._routes))
            raise UnknownRouteError(f"there is no route {path[:200]}", hint=f"routes: {known}")
        if method not in methods:
            raise WrongMethodError(f"{path[:200]} takes {' and '.join(methods)}, not {method}")
        return methods[method]

    def _refuse(self, error: Error, dialect: Dialect, request: Request | None, entry: LogEntry) -> Reply:
        """Return the error in the dialect's form, with what tells the client whether to try again."""
        status = error.http_status
        said = RecentError(time.time(), status, entry.path[:200], error.describe()[:500])
        self._front.recent_errors.append(said)
        if status >= 500:
            _LOG.warning("%s %s %s: %s", entry.request_id, entry.method, entry.path, error.describe())
        headers = {}
        pool = request.progress.pool if request is not None else None
        hopeless = pool is not None and pool.failed
        if isinstance(error, NotReadyError) and not hopeless:
            headers = {"retry-after": str(math.ceil(error.retry_after_seconds)), "x-should-retry": "true"}
        elif status < 500 or hopeless or isinstance(error, InternalError):
            headers = {"x-should-retry": "false"}
        if isinstance(error, VectorSpaceError):
            headers[SPACE_HEADER] = error.space
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        if isinstance(error, WrongMethodError):
            headers["allow"] = self._allow(entry.path)
        if isinstance(error, CodedBodyError):
            headers["accept-encoding"] = "identity"
        if status in (408, 413):
            headers["connection"] = "close"
        return json_reply(dialect.render_error(error), status=status, headers=headers)
