"""The one canonical embedding request and its result; every dialect parses into and renders from these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["EmbedRequest", "EmbedResult"]


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts to embed, in order; at least one."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """``vectors``: float32 of shape (texts, dimensions), finite, unit length, in the texts' order.

    ``prompt_tokens``: over all texts; 0 where the engine tells none. ``vector_space``: the fingerprint.
    """

    vectors: NDArray[np.float32]
    prompt_tokens: int
    vector_space: str
