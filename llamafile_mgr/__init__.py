"""Run embedding and generation llamafiles on your own hardware and forget about them.

``endpoint`` and ``aendpoint`` serve a model for as long as a block runs; ``Client`` and ``AsyncClient`` ask
any running server. They are imported when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamafile_mgr.client import AsyncClient, Chunk, Client, Embeddings, ItemError, ModelInfo, Ranked
    from llamafile_mgr.endpoints.endpoint import AsyncEndpoint, Endpoint, aendpoint, endpoint
    from llamafile_mgr.errors import Error

__all__ = [
    "AsyncClient",
    "AsyncEndpoint",
    "Chunk",
    "Client",
    "Embeddings",
    "Endpoint",
    "Error",
    "ItemError",
    "ModelInfo",
    "Ranked",
    "__version__",
    "aendpoint",
    "endpoint",
]

__version__ = "0.1.0"

#: The modules that define the public names, in the order in which they import each other.
_HOMES = ("errors", "client", "endpoints.endpoint")


def __getattr__(name: str) -> object:
    for home in _HOMES if name in __all__ else ():
        module = importlib.import_module(f"{__name__}.{home}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
