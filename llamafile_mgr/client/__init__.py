"""A typed client of the proxy, sync and async, for any running server."""

from __future__ import annotations

from llamafile_mgr.client.clients import AsyncClient, Client
from llamafile_mgr.client.values import Chunk, EmbedArguments, Embeddings, ItemError, ModelInfo, Ranked

__all__ = [
    "AsyncClient",
    "Chunk",
    "Client",
    "EmbedArguments",
    "Embeddings",
    "ItemError",
    "ModelInfo",
    "Ranked",
]
