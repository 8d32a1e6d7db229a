"""ASGI in the shape that handlers want: a request with a bounded body, a reply, a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import orjson

from llamafile_mgr.errors import BodyTooLargeError, RequestError
from llamafile_mgr.proxy.refusals import SlowBodyError
from llamafile_mgr.proxy.timing import TimeLimit

if TYPE_CHECKING:
    from llamafile_mgr.supervisor.pool import Pool

__all__ = [
    "ClientGoneError",
    "Drip",
    "Progress",
    "Receive",
    "Reply",
    "Request",
    "Scope",
    "Send",
    "StreamReply",
    "await_disconnect",
    "head_message",
    "json_reply",
    "read_body",
    "run_until_disconnect",
    "send_reply",
    "send_stream",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Deeper JSON than this is no request of any client, and costs whoever walks through it.
_MAX_DEPTH = 64


class ClientGoneError(Exception):
    """The client closed its connection; nobody is left to answer."""


class Drip(Enum):
    """What may be sent while a call is held: spaces before JSON, comments before events, or nothing."""

    NONE = b""
    JSON = b" "
    EVENTS = b": loading\n\n"


@dataclass(slots=True)
class Progress:
    """What a handler has found out so far; the dispatcher reads it for holding, logs and metrics.

    ``pool``: the one that answers. ``drip``: what may keep the connection alive while it is not ready.
    ``engine_seconds``, ``queue_seconds``: how long the engine and the queue took.
    """

    pool: Pool | None = None
    drip: Drip = Drip.NONE
    queue_seconds: float = 0.0
    engine_seconds: float = 0.0
    prompt_tokens: int = 0
    items: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are lower-case. ``body``: the whole body, at most the configured size.

    ``path``: without a trailing slash. ``client``: who asks, for fairness between clients.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str] = field(default_factory=dict)
    client: str = ""
    request_id: str = ""
    progress: Progress = field(default_factory=Progress)

    def json_object(self) -> dict[str, Any]:
        """Return the body as a JSON object without its nulls, whatever Content-Type says.

        Clients send nulls for what they leave open (langchain-ollama thirteen of them), and curl's default
        type is that of a form.

        Raises:
            RequestError: no JSON, no object, or one that is nested too deeply.
        """
        try:
            value = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise RequestError(
                f"the body is not JSON: {error}", hint='send an object such as {"input": "text"}'
            ) from error
        if not isinstance(value, dict):
            raise RequestError(f"the body must be a JSON object, not {type(value).__name__}")
        if _is_deeper(value, _MAX_DEPTH):
            raise RequestError(f"the body is nested more than {_MAX_DEPTH} levels deep")
        return {key: item for key, item in value.items() if item is not None}

    @property
    def read_timeout_seconds(self) -> float | None:
        """Return how long the client waits for the next byte, where it says so (OpenAI's clients do)."""
        try:
            seconds = float(self.headers.get("x-stainless-read-timeout", ""))
        except ValueError:
            return None
        return seconds if 0 < seconds < 1e6 else None


def _is_deeper(value: object, limit: int) -> bool:
    level: list[object] = [value]
    for _ in range(limit):
        below: list[object] = []
        for each in level:
            items = each.values() if isinstance(each, dict) else each
            below += [item for item in items if isinstance(item, (dict, list))]  # type: ignore[attr-defined]
        if not below:
            return False
        level = below
    return True


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamReply:
    """A reply whose body is still coming. An exception in ``chunks`` cuts the connection."""

    status: int
    content_type: str
    chunks: AsyncIterator[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


def json_reply(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return ``value`` as JSON; numpy arrays become lists of numbers."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Reply(status, body, headers=headers or {})


async def read_body(receive: Receive, headers: Mapping[str, str], limit: int, idle_seconds: float) -> bytes:
    """Return the whole request body.

    Raises:
        BodyTooLargeError: more than ``limit`` bytes were announced or came.
        SlowBodyError: nothing came for ``idle_seconds``.
        ClientGoneError: the client left before the end.
    """
    announced = headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    if announced == "0" and "transfer-encoding" not in headers:
        return b""
    pieces: list[bytes] = []
    total = 0
    while True:
        try:
            async with TimeLimit(idle_seconds):
                message = await receive()
        except asyncio.TimeoutError:
            raise SlowBodyError(f"no part of the body came for {idle_seconds:g} seconds") from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece: bytes = message.get("body", b"")
        total += len(piece)
        if total > limit:
            raise _too_large(limit)
        pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body is larger than {limit} bytes",
        hint="send fewer texts in a request, or raise serve.max_body_bytes",
    )


async def send_reply(send: Send, reply: Reply) -> None:
    """Send a whole reply."""
    headers = {"content-type": reply.content_type, "content-length": str(len(reply.body)), **reply.headers}
    await send(head_message(reply.status, headers))
    await send({"type": "http.response.body", "body": reply.body})


async def send_stream(send: Send, reply: StreamReply, *, begun: bool = False) -> None:
    """Send each piece as it comes; ends the chunked body properly only when the pieces ended properly.

    ``begun``: the reply's head has gone out already.
    """
    if not begun:
        headers = {"content-type": reply.content_type, "cache-control": "no-store", **reply.headers}
        await send(head_message(reply.status, headers))
    async for piece in reply.chunks:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def head_message(status: int, headers: Mapping[str, str]) -> Message:
    """Return the message that begins a response."""
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
    }


async def run_until_disconnect(work: Awaitable[None], receive: Receive) -> None:
    """Await ``work``; cancel it when the client goes away first.

    Raises:
        ClientGoneError: the client went away.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(await_disconnect(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        task.result()
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def await_disconnect(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
