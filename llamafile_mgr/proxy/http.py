"""What handlers take and give: a request with its whole body, a reply, a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import orjson

from llamafile_mgr.errors import BodyTooLargeError, RequestError

if TYPE_CHECKING:
    from llamafile_mgr.supervisor.calls import Caller
    from llamafile_mgr.supervisor.pool import Pool

#: Deeper JSON than this is no request of any client, and costs whoever walks through it.
_MAX_DEPTH = 64
#: What takes many times its size once it is parsed: arrays and objects, and numbers in them, of which a
#: queue holds no more as tokens.
_MAX_CONTAINERS, _MAX_COMMAS = 200_000, 4_000_000
_STEP_BYTES = 1024 * 1024


class ClientGoneError(Exception):
    """The client closed its connection; nobody is left to answer."""


class StreamCutError(Exception):
    """Ends an answer without its proper end, so that the client knows it was cut."""


class Padding(Enum):
    """What may be sent while a call is held: spaces before JSON, comments before events, or nothing."""

    NONE = b""
    JSON = b" "
    EVENTS = b": loading\n\n"


@dataclass(slots=True)
class RequestProgress:
    """What a handler has found out so far; the dispatcher reads it for padding, logs and metrics.

    ``pool``: the one that answers. ``padding``: what may keep the connection alive while it is not ready.
    ``caller``: what the pool noted of its waiting and computing. ``items``: texts that it brought.
    """

    pool: Pool | None = None
    padding: Padding = Padding.NONE
    caller: Caller | None = None
    prompt_tokens: int = 0
    items: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are lower-case. ``body``: the whole body, at most the configured size.

    ``path``: without a trailing slash. ``client``: who asks, for fairness between clients. ``trusted``: that
    the request has a key, where there are keys.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | bytearray
    query: Mapping[str, str] = field(default_factory=dict)
    client: str = ""
    request_id: str = ""
    progress: RequestProgress = field(default_factory=RequestProgress)
    trusted: bool = True

    def json_object(self) -> dict[str, Any]:
        """Return the body as a JSON object without its nulls, whatever Content-Type says.

        Clients send nulls for what they leave open (langchain-ollama thirteen of them), and curl's default
        type is that of a form.

        Raises:
            RequestError: no JSON, no object, or one that is nested too deeply.
            BodyTooLargeError: it has more parts than any call needs.
        """
        if len(self.body) > _MAX_CONTAINERS:
            _check_parts(self.body)
        try:
            value = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise RequestError(
                f"the body is not JSON: {error}", hint='send an object such as {"input": "text"}'
            ) from error
        if not isinstance(value, dict):
            raise RequestError(f"the body must be a JSON object, not {type(value).__name__}")
        opened = self.body.count(b"{") + self.body.count(b"[")
        if opened > _MAX_DEPTH and _is_deeper(value, _MAX_DEPTH):
            raise RequestError(f"the body is nested more than {_MAX_DEPTH} levels deep")
        return {key: item for key, item in value.items() if item is not None}

    @property
    def read_timeout_seconds(self) -> float | None:
        """Return how long the client waits for the next byte, where it says so (OpenAI's clients do)."""
        announced = self.headers.get("x-stainless-read-timeout")
        if announced is None:
            return None
        try:
            seconds = float(announced)
        except ValueError:
            return None
        return seconds if 0 < seconds < 1e6 else None


def _check_parts(body: bytes | bytearray) -> None:
    """Raise BodyTooLargeError when ``body`` has too many parts, before all of them are counted."""
    containers = commas = 0
    for start in range(0, len(body), _STEP_BYTES):
        end = start + _STEP_BYTES
        containers += body.count(b"{", start, end) + body.count(b"[", start, end)
        commas += body.count(b",", start, end)
        if containers > _MAX_CONTAINERS or commas > _MAX_COMMAS:
            raise BodyTooLargeError(
                f"the body has more than {_MAX_CONTAINERS:,} arrays and objects or {_MAX_COMMAS:,} commas",
                hint="send fewer texts in a request",
            )


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
    """A reply whose body is still coming. An exception in ``chunks`` cuts the connection. ``close`` gives
    back what it holds, whether or not ``chunks`` was ever begun."""

    status: int
    content_type: str
    chunks: AsyncGenerator[bytes]
    headers: Mapping[str, str]
    close: Callable[[], None]


def json_reply(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return ``value`` as JSON; numpy arrays become lists of numbers."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Reply(status, body, headers=headers or {})
