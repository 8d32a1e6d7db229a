"""Server-sent events on their way from an engine to a client that may parse them by hand. Pure.

Recorded: LangChain yields every line that does not start with ``data:`` as text; LlamaIndex fails on
comments, on ``[DONE]``, on empty ``choices`` and on ``"role": null``; OpenAI's clients take all of these,
but read a line ``error: {...}`` (which engines up to 0.9.3 send) as the end of the stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import orjson

from llamafile_mgr.engines.messages import EngineReply
from llamafile_mgr.engines.replies import read_json
from llamafile_mgr.errors import Error
from llamafile_mgr.proxy.api_errors import render_error
from llamafile_mgr.proxy.http import Reply, json_reply

_DONE = b"data: [DONE]"


class EventStyle(StrEnum):
    """What the client's parser can take.

    ``STANDARD``: all of SSE, and ``[DONE]`` is expected. ``TYPED``: all of SSE, and the last event has a
    type of its own. ``COMPLETION``: only ``data:`` lines, no ``[DONE]``. ``STRICT_CHAT``: as COMPLETION,
    and chunks must have choices and no null role.
    """

    STANDARD = "standard"
    TYPED = "typed"
    COMPLETION = "completion"
    STRICT_CHAT = "strict-chat"

    @property
    def takes_comments(self) -> bool:
        """Tell whether the parser passes over comments."""
        return self in (EventStyle.STANDARD, EventStyle.TYPED)


def render_event(value: object) -> bytes:
    """Return one event with ``value`` as JSON."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


class Translation(ABC):
    """An engine's answer, whole or in pieces, in the form that its client reads."""

    content_type = "text/event-stream"
    takes_comments = False
    _buffer = b""

    @abstractmethod
    def whole(self, reply: EngineReply, headers: Mapping[str, str]) -> Reply:
        """Return the answer that came whole."""

    @abstractmethod
    def feed(self, data: bytes) -> bytes:
        """Return what the events that ``data`` completed become."""

    @abstractmethod
    def finish(self) -> bytes:
        """Return what is still owed at the proper end."""

    def fail(self, error: Error) -> bytes:
        """Return what tells of an engine's death midway."""
        return render_event(render_error(error))


class JsonTranslation(Translation):
    """A form made from the JSON of the engine's events, without comments and ``[DONE]``. An event that is an
    error stays one.
    """

    def whole(self, reply: EngineReply, headers: Mapping[str, str]) -> Reply:
        return json_reply(self.translate_whole(read_json(reply)), headers=headers)

    def feed(self, data: bytes) -> bytes:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return b"".join(map(self._translate_line, lines))

    def finish(self) -> bytes:
        return self._translate_line(self._buffer) + self.end()

    def _translate_line(self, line: bytes) -> bytes:
        return b"".join(map(self.translate, _read_line(line.strip())))

    @abstractmethod
    def translate_whole(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Return a whole answer's JSON."""

    @abstractmethod
    def translate(self, event: Any) -> bytes:
        """Return what one event becomes, which may be nothing."""

    @abstractmethod
    def end(self) -> bytes:
        """Return the end that such clients expect."""


def _read_line(line: bytes) -> list[Any]:
    if line.startswith(b"error:"):
        return [{"error": orjson.loads(_json_or_text(line[6:].strip()))}]
    if not line.startswith(b"data:") or line == _DONE:
        return []
    try:
        return [orjson.loads(line[5:])]
    except orjson.JSONDecodeError:
        return []


class EventFilter(Translation):
    """The engine's own form: of its events those, whole, that the client's style allows."""

    def __init__(self, style: EventStyle) -> None:
        self.takes_comments = style.takes_comments
        self._style = style
        self._done = False

    def whole(self, reply: EngineReply, headers: Mapping[str, str]) -> Reply:
        return Reply(200, reply.body, reply.content_type or "application/json", headers)

    def feed(self, data: bytes) -> bytes:
        self._buffer += data.replace(b"\r\n", b"\n")
        *events, self._buffer = self._buffer.split(b"\n\n")
        return b"".join(self._filter(event) for event in events)

    def finish(self) -> bytes:
        rest = self._filter(self._buffer) if self._buffer.strip() else b""
        if self._style is EventStyle.STANDARD and not self._done:
            rest += _DONE + b"\n\n"
        return rest

    def _filter(self, event: bytes) -> bytes:
        lines = [kept for line in event.split(b"\n") if (kept := self._filter_line(line)) is not None]
        return b"\n".join(lines) + b"\n\n" if lines else b""

    def _filter_line(self, line: bytes) -> bytes | None:
        if line.startswith(b"error:"):
            return b'data: {"error":' + _json_or_text(line[6:].strip()) + b"}"
        if line.strip() == _DONE:
            self._done = True
            return line if self.takes_comments else None
        if self.takes_comments:
            return line or None
        if not line.startswith(b"data:"):
            return None
        return _tame_chunk(line) if self._style is EventStyle.STRICT_CHAT else line


def _json_or_text(text: bytes) -> bytes:
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = {"message": text.decode("utf-8", "replace")}
    return orjson.dumps(value)


def _tame_chunk(line: bytes) -> bytes | None:
    """Return a chat chunk without what hand-written parsers trip over, None when nothing is left."""
    try:
        chunk: Any = orjson.loads(line[5:])
    except orjson.JSONDecodeError:
        return line
    if not isinstance(chunk, dict) or "choices" not in chunk:
        return line
    if not chunk["choices"]:
        return None
    delta = chunk["choices"][0].get("delta")
    if isinstance(delta, dict):
        chunk["choices"][0]["delta"] = {key: value for key, value in delta.items() if value is not None}
    return b"data: " + orjson.dumps(chunk)
