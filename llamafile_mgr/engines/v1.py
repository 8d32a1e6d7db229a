"""llamafile up to 0.9.3 with ``--server``: the engine of the three embedding llamafiles of the post.

Flags and shapes: llamafile 0.8.4 and 0.9.3, ``llama.cpp/server/server.cpp``; not run here. There is no
``--pooling`` and no ``-ub``; any ``-b`` shrinks the batch to 512; more than one slot nulls embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors, json_request
from llamafile_mgr.engines.replies import read_json, read_token_list, stack_vectors
from llamafile_mgr.engines.settings import LaunchSettings
from llamafile_mgr.errors import EngineError
from llamafile_mgr.llamafile.family import Family

__all__ = ["V1"]


class V1:
    """Rules of the classic server."""

    family = Family.V1
    #: A list is served one text after another there, and one of a single text has another shape.
    max_texts = 1
    picks_port = False
    protects_embeddings = False

    def arguments(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags after the program's name."""
        flags = ["--server", "--nobrowser", "--host", settings.host, "--port", str(settings.port)]
        if settings.model is not None:
            flags += ["-m", str(settings.model)]
        flags += ["-c", str(settings.context), "-t", str(settings.threads)]
        if settings.role is Role.EMBED:
            flags += ["--embedding", "-np", "1"]
        else:
            flags += ["-np", str(settings.slots)]
        if settings.gpu is not None:
            flags += ["--gpu", settings.gpu]
        if settings.gpu_layers is not None:
            flags += ["-ngl", str(settings.gpu_layers)]
        if settings.alias is not None:
            flags += ["--alias", settings.alias]
        if settings.api_key_file is not None:
            flags += ["--api-key-file", str(settings.api_key_file)]
        return tuple(flags)

    def health(self) -> EngineRequest:
        """Return ``GET /health`` (0.6.2 and later); the port stays closed while the model loads."""
        return EngineRequest("GET", "/health")

    def embed(self, texts: Sequence[str]) -> EngineRequest:
        """Return the request for one text."""
        return json_request("/embedding", {"content": texts[0]})

    def read_vectors(self, reply: EngineReply, count: int) -> EngineVectors:
        """Return the vector of ``{"embedding": [...]}``; the body ``null`` is a failure under HTTP 200.

        Raises:
            EngineError: no vector, or the fixed 503 of 0.8.13 to 0.9.3, which never ends.
        """
        if reply.status == 503 and reply.content_type.startswith("text/plain"):
            raise EngineError(
                "this engine never answers embeddings",
                cause="llamafile 0.8.13 to 0.9.3 refuse them in --server with a 503 that looks like 'busy'",
                hint="run the weights on a llamafile runtime of 0.10 or later",
            )
        body = read_json(reply)
        if not isinstance(body, dict):
            raise EngineError("the engine answered 200 without a vector")
        return EngineVectors(stack_vectors([body.get("embedding")], count), None)

    def tokenize(self, text: str) -> EngineRequest:
        """Return the request for the ids; v1 counts without special tokens."""
        return json_request("/tokenize", {"content": text})

    def read_tokens(self, reply: EngineReply) -> list[int]:
        """Return the token ids. Raises EngineError."""
        return read_token_list(reply)
