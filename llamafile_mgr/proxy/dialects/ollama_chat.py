"""Ollama's ``/api/chat`` and ``/api/generate`` in terms of OpenAI's chat, and its answers back. Pure.

Every line of a stream is one JSON object and nothing else: clients parse each line.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from llamafile_mgr.errors import Error, RequestError
from llamafile_mgr.proxy.dialects.errors import Dialect, render_error
from llamafile_mgr.proxy.dialects.fields import read_flag, read_text

__all__ = ["OllamaCall", "OllamaStream", "parse_chat", "parse_generate", "render_loaded", "render_whole"]

#: Ollama's option -> the engine's field.
_OPTIONS = {
    "num_predict": "max_tokens",
    **{
        name: name
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "typical_p",
            "seed",
            "stop",
            "repeat_penalty",
            "repeat_last_n",
            "presence_penalty",
            "frequency_penalty",
            "mirostat",
            "mirostat_tau",
            "mirostat_eta",
        )
    },
}
_REASONS = {"stop": "stop", "length": "length", "tool_calls": "stop"}


@dataclass(frozen=True, slots=True)
class OllamaCall:
    """A parsed call. ``body``: for the engine's chat route; None only asks to load the model.

    ``chat``: the answer is a ``message``, else a ``response``.
    """

    body: dict[str, Any] | None
    chat: bool
    stream: bool


def parse_chat(body: dict[str, Any]) -> OllamaCall:
    """Parse the body of ``/api/chat``; without messages it loads the model.

    Raises:
        RequestError: messages of another form, or images.
    """
    messages = body.get("messages", [])
    if not isinstance(messages, list):
        raise RequestError("'messages' must be a list")
    stream = read_flag(body, "stream", default=True)
    if not messages:
        return OllamaCall(None, chat=True, stream=stream)
    sent = {"messages": [_read_message(each) for each in messages], **_read_common(body)}
    if body.get("tools"):
        sent["tools"] = body["tools"]
    return OllamaCall(_with_stream(sent, stream), chat=True, stream=stream)


def parse_generate(body: dict[str, Any]) -> OllamaCall:
    """Parse the body of ``/api/generate``: the prompt becomes one message; an empty one loads the model.

    Raises:
        RequestError: a prompt that is no text, images, ``raw`` or ``suffix``.
    """
    for key in ("raw", "suffix", "images"):
        if body.get(key):
            raise RequestError(
                f"{key!r} is not offered on this route", hint="POST /completion takes any prompt"
            )
    prompt, stream = read_text(body, "prompt", ""), read_flag(body, "stream", default=True)
    if not prompt:
        return OllamaCall(None, chat=False, stream=stream)
    system = read_text(body, "system", "")
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return OllamaCall(
        _with_stream({"messages": messages, **_read_common(body)}, stream), chat=False, stream=stream
    )


def _read_message(message: object) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError("each message must be an object with a role")
    if message.get("images"):
        raise RequestError("images are not offered on this route")
    read: dict[str, Any] = {"role": message["role"], "content": message.get("content") or ""}
    if message.get("tool_calls"):
        read["tool_calls"] = [_read_tool_call(n, call) for n, call in enumerate(message["tool_calls"])]
    if isinstance(message.get("tool_name"), str):
        read["name"] = message["tool_name"]
    return read


def _read_tool_call(number: int, call: object) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestError("each tool call must hold a function with a name")
    arguments = orjson.dumps(function.get("arguments") or {}).decode()
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _read_common(body: dict[str, Any]) -> dict[str, Any]:
    options = body.get("options", {})
    if not isinstance(options, dict):
        raise RequestError("'options' must be an object")
    sent = {_OPTIONS[key]: value for key, value in options.items() if key in _OPTIONS and value is not None}
    wanted = body.get("format")
    if wanted == "json":
        sent["response_format"] = {"type": "json_object"}
    elif isinstance(wanted, dict):
        sent["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}
    return sent


def _with_stream(sent: dict[str, Any], stream: bool) -> dict[str, Any]:
    return {**sent, "stream": True, "stream_options": {"include_usage": True}} if stream else sent


def render_loaded(call: OllamaCall, model: str) -> dict[str, Any]:
    """Return the answer to a call that only loads."""
    return {**_frame(call, model, ""), "done": True, "done_reason": "load"}


def render_whole(call: OllamaCall, model: str, reply: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return an engine's whole chat reply in Ollama's form."""
    choice = (reply.get("choices") or [{}])[0]
    message = choice.get("message") or {}
    line = _frame(call, model, message.get("content") or "", message.get("tool_calls"))
    return {**line, **_ending(choice.get("finish_reason"), reply.get("usage") or {}, seconds)}


class OllamaStream:
    """Turns the chunks of OpenAI's stream into Ollama's lines."""

    def __init__(self, call: OllamaCall, model: str) -> None:
        self._call = call
        self._model = model
        self._reason: str | None = None
        self._usage: dict[str, Any] = {}
        self._tools: dict[int, dict[str, Any]] = {}

    def feed(self, chunk: object) -> bytes:
        """Return the line of one chunk; nothing for one without text.

        A chunk that is an error becomes an error line.
        """
        if not isinstance(chunk, dict):
            return b""
        if "error" in chunk:
            said = chunk["error"]
            return _line({"error": str(said.get("message", said) if isinstance(said, dict) else said)})
        self._usage = chunk.get("usage") or self._usage
        choice = (chunk.get("choices") or [{}])[0]
        self._reason = choice.get("finish_reason") or self._reason
        delta = choice.get("delta") or {}
        for part in delta.get("tool_calls") or ():
            self._add_tool_part(part)
        text = delta.get("content")
        return _line(_frame(self._call, self._model, text)) if text else b""

    def finish(self, seconds: float) -> bytes:
        """Return the last line, with tool calls before it when there were some."""
        last = _line({**_frame(self._call, self._model, ""), **_ending(self._reason, self._usage, seconds)})
        if not self._tools:
            return last
        calls = [self._tools[index] for index in sorted(self._tools)]
        return _line(_frame(self._call, self._model, "", calls)) + last

    def fail(self, error: Error) -> bytes:
        """Return the line that tells of an engine's death."""
        return _line(render_error(error, Dialect.OLLAMA))

    def _add_tool_part(self, part: dict[str, Any]) -> None:
        call = self._tools.setdefault(part.get("index", 0), {"function": {"name": "", "arguments": ""}})
        for key, value in (part.get("function") or {}).items():
            if key in ("name", "arguments") and isinstance(value, str):
                call["function"][key] += value


def _line(value: object) -> bytes:
    return orjson.dumps(value) + b"\n"


def _frame(
    call: OllamaCall, model: str, text: str, tool_calls: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    frame: dict[str, Any] = {
        "model": model,
        "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "done": False,
    }
    if not call.chat:
        return {**frame, "response": text}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if tool_calls:
        message["tool_calls"] = [_show_tool_call(each) for each in tool_calls]
    return {**frame, "message": message}


def _show_tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except orjson.JSONDecodeError:
        arguments = {}
    return {"function": {"name": function.get("name", ""), "arguments": arguments}}


def _ending(reason: str | None, usage: dict[str, Any], seconds: float) -> dict[str, Any]:
    nanoseconds = int(seconds * 1e9)
    return {
        "done": True,
        "done_reason": _REASONS.get(reason or "stop", "stop"),
        "total_duration": nanoseconds,
        "load_duration": 0,
        "prompt_eval_count": usage.get("prompt_tokens", 0),
        "prompt_eval_duration": 0,
        "eval_count": usage.get("completion_tokens", 0),
        "eval_duration": nanoseconds,
    }
