"""What llamafiler (v2) reads of a generation body, which is strict where others are lenient. Pure.

Source: llamafile 0.9.3, ``llamafile/server/v1_completions.cpp`` and ``v1_chat_completions.cpp``; not run
here. It refuses fields that it does not support even when they say nothing, and contents that are no texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["to_llamafiler"]

#: What both routes read; anything else is refused by one of them or means nothing to either.
_READ = frozenset(
    [
        "model",
        "prompt",
        "messages",
        "echo",
        "stream",
        "stream_options",
        "max_tokens",
        "top_p",
        "temperature",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "user",
        "stop",
        "response_format",
    ]
)
#: Fields that change the answer: without them it would be another one than was asked for.
_NEEDED = ("tools", "functions", "logprobs", "suffix")


def to_llamafiler(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body as it is taken; what would be missed is left in, so that the engine refuses it."""
    sent = {key: value for key, value in body.items() if key in _READ or (key in _NEEDED and value)}
    if "n_predict" in body:
        sent.setdefault("max_tokens", body["n_predict"])
    if isinstance(sent.get("messages"), list):
        sent["messages"] = [_flatten(message) for message in sent["messages"]]
    return sent


def _flatten(message: object) -> object:
    """Join the parts of a content that consists of texts alone."""
    parts = message.get("content") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(parts, list):
        return message
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        return message
    return {**message, "content": "".join(map(str, texts))}
