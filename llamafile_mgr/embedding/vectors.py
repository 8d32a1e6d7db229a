"""Checking and normalising vectors; nothing that an engine computed is passed on unchecked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.errors import EngineError

#: Below this length a vector has no direction worth the name; engines write zeros where they failed.
_SHORTEST = 1e-12


@dataclass(frozen=True, slots=True)
class TextVector:
    """A final text's unit vector. ``tokens``: its own where they were counted, None where the engine only
    told the sum of a batch; ``share``: its part of that sum by length. ``cached``: it was known.
    ``estimated``: nothing counted its tokens, and ``share`` is a guess from its length."""

    vector: NDArray[np.float32]
    tokens: int | None = None
    share: float = 0.0
    cached: bool = False
    estimated: bool = False


def normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``vectors`` of shape (n, d), each scaled to unit length (float32).

    Raises:
        EngineError: NaN, infinity or a zero vector; the message names the first culprit's index.
    """
    units, bad = scale_rows(vectors)
    if bad.any():
        index = int(np.argmax(bad != 0))
        what = "a zero vector" if bad[index] == 1 else "numbers that are not finite"
        raise EngineError(f"the engine gave {what} for text {index}")
    return units


def scale_rows(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Return the rows at unit length, and for each 0 when it is a vector, 1 when it is zero, 2 when it has
    NaN or infinity; such rows are left as they are."""
    wide = vectors.astype(np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    bad = np.zeros(len(lengths), dtype=np.int8)
    if not (lengths.min(initial=1.0) >= _SHORTEST and lengths.max(initial=1.0) < np.inf):  # NaN is neither
        flat = lengths[:, 0]
        bad[:] = np.where(np.isfinite(flat), flat < _SHORTEST, 2)
        flat[bad != 0] = 1.0
    return (wide / lengths).astype(np.float32), bad


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each row of ``left`` with the same row of ``right``, both of unit length."""
    products: NDArray[np.float64] = np.einsum("ij,ij->i", left.astype(np.float64), right.astype(np.float64))
    return products
