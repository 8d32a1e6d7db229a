"""llamafiler, the second server of llamafile 0.8.8 to 0.9.3 (``--server --v2`` from 0.9.0).

Flags and shapes: llamafile 0.9.3, ``llamafile/server/``; not run here. It embeds one text a request, always
pools the last token, has no health route and rate-limits even local clients unless they are trusted.
"""

from __future__ import annotations

from collections.abc import Sequence

from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors, json_request
from llamafile_mgr.engines.replies import read_json, stack_vectors
from llamafile_mgr.engines.settings import LaunchSettings
from llamafile_mgr.errors import EngineError
from llamafile_mgr.llamafile.family import Family

__all__ = ["V2"]


class V2:
    """Rules of llamafiler."""

    family = Family.V2
    max_texts = 1
    picks_port = False
    protects_embeddings = False

    def arguments(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags after the program's name; ``--host``, ``--port`` and ``-np`` are unknown here."""
        flags = ["--server", "--v2", "-l", f"{settings.host}:{settings.port}", "--trust", "127.0.0.1/32"]
        if settings.model is not None:
            flags += ["-m", str(settings.model)]
        flags += ["-c", str(settings.context), "-s", str(settings.slots), "-t", str(settings.threads)]
        if settings.gpu is not None:
            flags += ["--gpu", settings.gpu]
        if settings.gpu_layers is not None:
            flags += ["-ngl", str(settings.gpu_layers)]
        return tuple(flags)

    def health(self) -> EngineRequest:
        """Return the cheapest request that every release answers."""
        return EngineRequest("GET", "/tokenize?prompt=x")

    def embed(self, texts: Sequence[str]) -> EngineRequest:
        """Return the request for one text."""
        return json_request("/embedding", {"content": texts[0]})

    def read_vectors(self, reply: EngineReply, count: int) -> EngineVectors:
        """Return the vector.

        Raises:
            EngineError: no vector, or a text that was cut (``tokens_used`` below ``tokens_provided``).
        """
        body = read_json(reply)
        if not isinstance(body, dict):
            raise EngineError("the engine answered 200 without a vector")
        used, provided = body.get("tokens_used"), body.get("tokens_provided")
        if isinstance(used, int) and isinstance(provided, int) and used < provided:
            raise EngineError(f"the engine read {used} of the text's {provided} tokens")
        return EngineVectors(
            stack_vectors([body.get("embedding")], count), used if isinstance(used, int) else None
        )

    def tokenize(self, text: str) -> EngineRequest:
        """Return the request for the tokens with special ones; the text is called ``prompt`` here."""
        return json_request("/tokenize", {"prompt": text, "add_special": True})

    def read_tokens(self, reply: EngineReply) -> list[int]:
        """Return as many numbers as there are tokens: this engine tells their texts and not their ids.

        Raises:
            EngineError: no list of tokens.
        """
        body = read_json(reply)
        tokens = body.get("tokens") if isinstance(body, dict) else None
        if not isinstance(tokens, list):
            raise EngineError("the engine's reply has no token list")
        return list(range(len(tokens)))
