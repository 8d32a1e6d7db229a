"""OpenAI's text completion in terms of llamafile's own ``/completion``, and the other way round.

v1 engines lack the former, v2 engines the latter.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llamafile_mgr.proxy.server_sent_events import render_event

__all__ = ["CompletionStream", "LlamafileStream", "render_llamafile", "render_whole", "to_llamafile"]


def to_llamafile(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body for ``/completion``; OpenAI's default of 16 tokens holds where none is named."""
    sent = {key: value for key, value in body.items() if key not in ("max_tokens", "stream_options", "n")}
    sent.setdefault("n_predict", body.get("max_tokens", 16))
    return sent


def render_whole(reply: Mapping[str, Any], model: str, request_id: str) -> dict[str, Any]:
    """Return a whole text completion."""
    prompt, made = reply.get("tokens_evaluated", 0), reply.get("tokens_predicted", 0)
    usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
    return {**_frame(model, request_id, str(reply.get("content", "")), _reason(reply)), "usage": usage}


class CompletionStream:
    """Turns the events of ``/completion`` into chunks of a text completion."""

    def __init__(self, model: str, request_id: str) -> None:
        self._model = model
        self._id = request_id

    def feed(self, event: Any) -> bytes:
        """Return the chunk of one event; an error stays one."""
        if not isinstance(event, dict) or "error" in event:
            return render_event(event)
        reason = _reason(event) if event.get("stop") else None
        return render_event(_frame(self._model, self._id, str(event.get("content", "")), reason))

    def finish(self) -> bytes:
        """Return the end that OpenAI's clients expect."""
        return b"data: [DONE]\n\n"


def render_llamafile(reply: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return llamafile's own completion from a whole text completion of OpenAI's form."""
    choice, usage = _first_choice(reply), reply.get("usage") or {}
    return {
        "content": str(choice.get("text") or ""),
        "stop": True,
        "stopped_limit": choice.get("finish_reason") == "length",
        "model": model,
        "tokens_evaluated": usage.get("prompt_tokens", 0),
        "tokens_predicted": usage.get("completion_tokens", 0),
    }


class LlamafileStream:
    """Turns the chunks of a text completion into the events of ``/completion``."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._pieces = 0
        self._limited = False

    def feed(self, event: Any) -> bytes:
        """Return the event of one chunk, nothing for one without text; an error stays one."""
        if not isinstance(event, dict) or "error" in event:
            return render_event(event)
        choice = _first_choice(event)
        self._limited = self._limited or choice.get("finish_reason") == "length"
        text = choice.get("text")
        if not text:
            return b""
        self._pieces += 1
        return render_event({"content": str(text), "stop": False})

    def finish(self) -> bytes:
        """Return the last event, which has no text."""
        last = {"content": "", "stop": True, "stopped_limit": self._limited, "model": self._model}
        return render_event({**last, "tokens_predicted": self._pieces})


def _first_choice(reply: Mapping[str, Any]) -> dict[str, Any]:
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _reason(reply: Mapping[str, Any]) -> str:
    return "length" if reply.get("stopped_limit") or reply.get("stop_type") == "limit" else "stop"


def _frame(model: str, request_id: str, text: str, reason: str | None) -> dict[str, Any]:
    return {
        "id": f"cmpl-{request_id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": None}],
    }
