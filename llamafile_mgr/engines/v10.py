"""llamafile from 0.10.0, which is upstream's llama.cpp server, and the embedded engine, which speaks it.

Flags: llamafile 4355126 ``llamafile/args.cpp``; llama.cpp's ``tools/server/README.md``. An ``--embedding``
server answers embeddings only. With explicit slots the context is divided among them.
"""

from __future__ import annotations

from collections.abc import Sequence

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors, json_request
from llamafile_mgr.engines.replies import read_openai_vectors, read_token_list
from llamafile_mgr.engines.settings import LaunchSettings
from llamafile_mgr.llamafile.family import Family

__all__ = ["V10", "Embedded"]


class V10:
    """Rules of llamafile 0.10 and later."""

    family = Family.V10
    max_texts = 2048
    #: Upstream's ``--port 0`` came later than the first 0.10 releases.
    picks_port = False
    protects_embeddings = True

    def arguments(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags after the program's name."""
        flags = ["--server", "--host", settings.host, "--port", str(settings.port)]
        if settings.model is not None:
            flags += ["-m", str(settings.model)]
        flags += ["-c", str(settings.context * settings.slots), "-np", str(settings.slots)]
        flags += ["-t", str(settings.threads)]
        if settings.batch is not None:
            flags += ["-b", str(settings.batch), "-ub", str(settings.batch)]
        if settings.role is Role.EMBED:
            flags += ["--embedding"]
            if settings.pooling is not None:
                flags += ["--pooling", settings.pooling.value]
        if settings.role is Role.RERANK:
            flags += ["--rerank", "--pooling", "rank"]
        if settings.flash_attention is not None:
            flags += ["-fa", "on" if settings.flash_attention else "off"]
        if settings.prompt_cache_mib is not None:
            flags += ["--cache-ram", str(settings.prompt_cache_mib)]
        if settings.gpu is not None:
            flags += ["--gpu", settings.gpu]
        if settings.gpu_layers is not None:
            flags += ["-ngl", str(settings.gpu_layers)]
        if settings.alias is not None:
            flags += ["--alias", settings.alias]
        if settings.api_key_file is not None:
            flags += ["--api-key-file", str(settings.api_key_file)]
        return (*flags, "--no-webui")

    def health(self) -> EngineRequest:
        """Return ``GET /health``: 503 while loading, needs no key."""
        return EngineRequest("GET", "/health")

    def embed(self, texts: Sequence[str]) -> EngineRequest:
        """Return the OpenAI request, vectors as base64: half the bytes of numbers and no parsing."""
        return json_request("/v1/embeddings", {"input": list(texts), "encoding_format": "base64"})

    def read_vectors(self, reply: EngineReply, count: int) -> EngineVectors:
        """Return the vectors of an OpenAI-shaped reply. Raises EngineError."""
        return read_openai_vectors(reply, count)

    def tokenize(self, text: str) -> EngineRequest:
        """Return the request for the ids with special tokens."""
        return json_request("/tokenize", {"content": text, "add_special": True})

    def read_tokens(self, reply: EngineReply) -> list[int]:
        """Return the token ids. Raises EngineError."""
        return read_token_list(reply)


class Embedded(V10):
    """Rules of ``python -m llamafile_mgr.engines.embedded``: V10's, under another name."""

    family = Family.EMBEDDED
    picks_port = True
