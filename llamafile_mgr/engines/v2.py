"""llamafiler, the second server of llamafile 0.8.8 to 0.9.3 (``--server --v2`` from 0.9.0).

Flags and shapes: llamafile 0.9.3, ``llamafile/server/``; not run here. It embeds one text a request, always
pools the last token, has no health route and rate-limits even local clients unless they are trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.known_bad import OLD_LLAMAFILE_ROWS, KnownBad, embeds
from llamafile_mgr.engines.launch_settings import LaunchSettings, given, gpu_flags, thread_flags
from llamafile_mgr.engines.messages import EngineRequest, json_request

#: What its generation routes read; anything else is refused by one of them or means nothing to either.
_READ = frozenset(
    {
        *("model", "prompt", "messages", "echo", "stream", "stream_options", "max_tokens", "top_p"),
        *("temperature", "seed", "presence_penalty", "frequency_penalty", "user", "stop", "response_format"),
    }
)
#: Fields that change the answer: without them it would be another one than was asked for.
_NEEDED = ("tools", "functions", "logprobs", "suffix")


class V2(EngineFamily):
    """Rules of llamafiler."""

    also_in = ((0, 9, 0), (0, 9, 3))
    also_for = frozenset({Role.EMBED})
    own_why = "its llamafiler can do it"
    unprotected = "llamafiler has no API keys: every user and program of this machine can ask its engine"
    known_bad = (
        *OLD_LLAMAFILE_ROWS,
        KnownBad(
            "fixed pooling",
            "its engine pools the last token of every model",
            lambda c: embeds(c) and c.pooling is not Pooling.LAST,
        ),
    )
    loads_gpu_modules = False
    no_batch_why = "the engine's own is right"
    vector_space = "v2"
    missing_routes = frozenset({"/completion", "/detokenize", "/v1/responses"})

    def arguments(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags after the program's name; ``--host``, ``--port`` and ``-np`` are unknown here."""
        listen = f"{settings.host}:{settings.port}"
        return (
            *("--server", "--v2", "-l", listen, "--trust", "127.0.0.1/32", *given("-m", settings.model)),
            *("-c", str(settings.context), "-s", str(settings.slots), *thread_flags(settings)),
            *gpu_flags(settings),
        )

    def health(self) -> EngineRequest:
        """Return the cheapest request that every release answers."""
        return EngineRequest("GET", "/tokenize?prompt=x")

    def properties(self) -> EngineRequest | None:
        """Return None: it has no such route."""
        return None

    def tokenize(self, text: str, *, special: bool = True, pieces: bool = False) -> EngineRequest:
        """Return the request for the tokens; the text is called ``prompt`` here."""
        return json_request("/tokenize", {"prompt": text, "add_special": special})

    def generation_body(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the body as it is taken; what would be missed is left in, so that the engine refuses it.

        Source: ``llamafile/server/v1_completions.cpp`` and ``v1_chat_completions.cpp`` of 0.9.3, strict where
        others are lenient: they refuse fields that they do not support even when they say nothing, and
        contents that are no texts.
        """
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
