"""OpenAI's text completion in terms of llamafile's own ``/completion``, and the other way round.

v1 engines lack the former, v2 engines the latter.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llamafile_mgr.proxy.server_sent_events import JsonTranslation, render_event


def to_llamafile(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body for ``/completion``; OpenAI's default of 16 tokens holds where none is named."""
    sent = {key: value for key, value in body.items() if key not in ("max_tokens", "stream_options", "n")}
    sent.setdefault("n_predict", body.get("max_tokens", 16))
    return sent


class TextCompletion(JsonTranslation):
    """OpenAI's text completion, made from ``/completion``."""

    def __init__(self, model: str, request_id: str) -> None:
        self._model = model
        self._id = request_id

    def translate_whole(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        prompt, made = reply.get("tokens_evaluated", 0), reply.get("tokens_predicted", 0)
        usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
        return {**self._frame(reply, _reason(reply)), "usage": usage}

    def translate(self, event: Any) -> bytes:
        if not isinstance(event, dict) or "error" in event:
            return render_event(event)
        return render_event(self._frame(event, _reason(event) if event.get("stop") else None))

    def end(self) -> bytes:
        return b"data: [DONE]\n\n"

    def _frame(self, said: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
        text = str(said.get("content", ""))
        return {
            "id": f"cmpl-{self._id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": None}],
        }


class LlamafileCompletion(JsonTranslation):
    """Llamafile's own completion, made from OpenAI's text completion."""

    def __init__(self, model: str, request_id: str = "") -> None:
        self._model = model
        self._pieces = 0
        self._limited = False

    def translate_whole(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        choice, usage = _first_choice(reply), reply.get("usage") or {}
        return {
            "content": str(choice.get("text") or ""),
            "stop": True,
            "stopped_limit": choice.get("finish_reason") == "length",
            "model": self._model,
            "tokens_evaluated": usage.get("prompt_tokens", 0),
            "tokens_predicted": usage.get("completion_tokens", 0),
        }

    def translate(self, event: Any) -> bytes:
        if not isinstance(event, dict) or "error" in event:
            return render_event(event)
        choice = _first_choice(event)
        self._limited = self._limited or choice.get("finish_reason") == "length"
        text = choice.get("text")
        if not text:
            return b""
        self._pieces += 1
        return render_event({"content": str(text), "stop": False})

    def end(self) -> bytes:
        last = {"content": "", "stop": True, "stopped_limit": self._limited, "model": self._model}
        return render_event({**last, "tokens_predicted": self._pieces})


def _first_choice(reply: Mapping[str, Any]) -> dict[str, Any]:
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _reason(reply: Mapping[str, Any]) -> str:
    return "length" if reply.get("stopped_limit") or reply.get("stop_type") == "limit" else "stop"
