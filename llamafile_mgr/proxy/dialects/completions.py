"""OpenAI's text completion in terms of llamafile's own ``/completion``, and the other way round.

v1 engines lack the former, v2 engines the latter. The former's ``/completion`` takes one prompt (a list gives
another answer without any text, run on llama.cpp's server of May 2024), so that a call for several texts is
several requests there; what it cannot do is refused.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from llamafile_mgr.errors import RequestError
from llamafile_mgr.proxy.server_sent_events import JsonTranslation, render_event

#: In one call; the queue holds that many of one client.
_MOST_PROMPTS, _MOST_CHOICES = 256, 16
_NOT_SENT = frozenset(
    {"max_tokens", "stream_options", "n", "best_of", "echo", "logprobs", "suffix", "prompt"}
)


def to_llamafile(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the bodies for ``/completion``, one per prompt and choice, in the order of the choices.

    OpenAI's default of 16 tokens holds where none is named. With a seed each choice of a prompt has another.

    Raises:
        RequestError: something that ``/completion`` cannot give, or several texts as a stream.
    """
    for key in ("logprobs", "suffix"):
        if (asked := body.get(key)) is not None and asked is not False:
            raise RequestError(f"the engine of this model is too old for {key!r}", hint="leave it out")
    count = body.get("n", 1)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST_CHOICES:
        raise RequestError(f"'n' must be a number from 1 to {_MOST_CHOICES}")
    if body.get("best_of", count) != count:
        raise RequestError("the engine of this model is too old for 'best_of'", hint="leave it out")
    prompts = _read_prompts(body)
    if len(prompts) * count > 1 and body.get("stream") is True:
        raise RequestError(
            "the engine of this model is too old to stream several texts at once",
            hint="ask for one prompt with n = 1, or without 'stream'",
        )
    shared = {key: value for key, value in body.items() if key not in _NOT_SENT}
    shared.setdefault("n_predict", body.get("max_tokens", 16))
    seed = shared.get("seed")
    return [
        {**shared, "prompt": prompt, **({"seed": seed + at} if at and isinstance(seed, int) else {})}
        for prompt in prompts
        for at in range(count)
    ]


def _read_prompts(body: Mapping[str, Any]) -> list[Any]:
    """Return the prompts of a text completion: texts, or lists of token ids.

    Raises:
        RequestError: none, too many, or no prompts; ids that shall be echoed, for they are no text.
    """
    given = body.get("prompt")
    several = isinstance(given, list) and bool(given) and not all(type(each) is int for each in given)
    prompts = given if several and isinstance(given, list) else [given]
    if len(prompts) > _MOST_PROMPTS:
        raise RequestError(f"at most {_MOST_PROMPTS} prompts may be sent at once")
    for prompt in prompts:
        ids = isinstance(prompt, list) and bool(prompt) and all(type(each) is int for each in prompt)
        if not isinstance(prompt, str) and not ids:
            raise RequestError("'prompt' must be a text, a list of texts, or token ids")
        if ids and body.get("echo") is True:
            raise RequestError("the engine of this model is too old to echo token ids", hint="send a text")
    return prompts


class CompletionForm(JsonTranslation):
    """A completion in another form than its engine's."""

    def translate_whole(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        return self.translate_several([reply])

    @abstractmethod
    def translate_several(self, replies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the JSON of a call whose requests were answered so, in the order of their bodies."""


class TextCompletion(CompletionForm):
    """OpenAI's text completion, made from ``/completion``. ``body``: what the client sent."""

    def __init__(self, model: str, request_id: str, body: Mapping[str, Any]) -> None:
        self._model = model
        self._id = request_id
        self._count = body.get("n", 1)
        self._echoes = _read_prompts(body) if body.get("echo") is True else []
        self._begun = False

    def translate_several(self, replies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        prompt = sum(reply.get("tokens_evaluated", 0) for reply in replies[:: self._count])
        made = sum(reply.get("tokens_predicted", 0) for reply in replies)
        usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
        choices = [
            self._choice(at, self._echo(at) + str(reply.get("content", "")), _reason(reply))
            for at, reply in enumerate(replies)
        ]
        return {**self._frame(choices), "usage": usage}

    def translate(self, event: Any) -> bytes:
        if not isinstance(event, dict) or "error" in event:
            return render_event(event)
        echo, self._begun = "" if self._begun else self._echo(0), True
        reason = _reason(event) if event.get("stop") else None
        return render_event(self._frame([self._choice(0, echo + str(event.get("content", "")), reason)]))

    def end(self) -> bytes:
        return b"data: [DONE]\n\n"

    def _echo(self, choice: int) -> str:
        """Return what stands in front of a choice."""
        return str(self._echoes[choice // self._count]) if self._echoes else ""

    def _choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "finish_reason": reason, "logprobs": None}

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"cmpl-{self._id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": choices,
        }


class LlamafileCompletion(CompletionForm):
    """Llamafile's own completion, made from OpenAI's text completion. There is one request, and one reply."""

    def __init__(self, model: str, request_id: str = "", body: Mapping[str, Any] | None = None) -> None:
        self._model = model
        self._pieces = 0
        self._limited = False

    def translate_several(self, replies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        choice, usage = _first_choice(replies[0]), replies[0].get("usage") or {}
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
