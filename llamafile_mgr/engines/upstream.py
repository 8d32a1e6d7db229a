"""llama.cpp's own HTTP server, in whatever program it comes.

Flags: llama.cpp's ``tools/server/README.md``. An ``--embedding`` server answers embeddings only. With
explicit slots the context is divided among them.
"""

from __future__ import annotations

from collections.abc import Sequence

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.launch_settings import LaunchSettings, given, gpu_flags, name_flags
from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors, json_request
from llamafile_mgr.engines.replies import read_openai_vectors

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
    #: What makes the program a server.
    serving: tuple[str, ...] = ("--server",)

    def placing(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags that say where to compute."""
        return gpu_flags(settings)

    def arguments(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags after the program's name."""
        context, batch, flash = settings.context * settings.slots, settings.batch, settings.flash_attention
        return (
            *self.serving,
            *("--host", settings.host, "--port", str(settings.port)),
            *given("-m", settings.model),
            *("-c", str(context), "-np", str(settings.slots), "-t", str(settings.threads)),
            *given("-b", batch),
            *given("-ub", batch),
            *_role_flags(settings),
            *given("-fa", None if flash is None else "on" if flash else "off"),
            *given("--cache-ram", settings.prompt_cache_mib),
            *self.placing(settings),
            *name_flags(settings),
            "--no-webui",
        )

    def embed(self, texts: Sequence[str]) -> EngineRequest:
        """Return the OpenAI request, vectors as base64: half the bytes of numbers and no parsing."""
        return json_request("/v1/embeddings", {"input": list(texts), "encoding_format": "base64"})

    def read_vectors(self, reply: EngineReply, count: int) -> EngineVectors:
        """Return the vectors of an OpenAI-shaped reply. Raises EngineError."""
        return read_openai_vectors(reply, count)


def _role_flags(settings: LaunchSettings) -> tuple[str, ...]:
    if settings.role is Role.EMBED:
        return ("--embedding", *given("--pooling", settings.pooling and settings.pooling.value))
    return ("--rerank", "--pooling", "rank") if settings.role is Role.RERANK else ()
