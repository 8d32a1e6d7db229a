"""llama.cpp's own HTTP server, in whatever program it comes.

Flags: llama.cpp's ``tools/server/README.md``. An ``--embedding`` server answers embeddings only. With
explicit slots the context is divided among them.
"""

from __future__ import annotations

from collections.abc import Sequence

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors, json_request
from llamafile_mgr.engines.replies import read_openai_vectors
from llamafile_mgr.engines.settings import LaunchSettings

__all__ = ["UpstreamServer"]


class UpstreamServer(EngineFamily):
    """What programs with llama.cpp's server have in common."""

    #: Flags of llamafiles before 0.10, which a file's own ``.args`` may hold.
    refused_flags = frozenset(
        {
            *("-l", "--listen", "--v2", "--nobrowser", "--fast", "--precise", "--trap"),
            *("--recompile", "--nocompile", "--tinyblas"),
        }
    )
    takes_flash_attention = True
    keeps_conversations = True
    vector_space = "v10"
    max_texts = 2048
    tells_token_texts = True
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

    def embed(self, texts: Sequence[str]) -> EngineRequest:
        """Return the OpenAI request, vectors as base64: half the bytes of numbers and no parsing."""
        return json_request("/v1/embeddings", {"input": list(texts), "encoding_format": "base64"})

    def read_vectors(self, reply: EngineReply, count: int) -> EngineVectors:
        """Return the vectors of an OpenAI-shaped reply. Raises EngineError."""
        return read_openai_vectors(reply, count)
