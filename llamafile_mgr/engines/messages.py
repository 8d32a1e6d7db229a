"""What is said to an engine and what it answers, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One HTTP request; ``body`` is JSON text or None. ``headers``: further ones, well formed already."""

    method: str
    path: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class EngineReply:
    """One whole HTTP reply. ``vector_space``: that of its vectors, where another proxy of ours says it."""

    status: int
    content_type: str
    body: bytes
    vector_space: str | None = None


@dataclass(frozen=True, slots=True)
class EngineVectors:
    """Vectors as an engine gave them: float32 of shape (texts, dimensions), unchecked.

    ``prompt_tokens``: the engine's own count over all texts, None where it tells none.
    """

    vectors: NDArray[np.float32]
    prompt_tokens: int | None


def json_request(path: str, body: object, headers: tuple[tuple[str, str], ...] = ()) -> EngineRequest:
    """Return a POST of ``body`` as JSON."""
    return EngineRequest("POST", path, orjson.dumps(body), headers)
