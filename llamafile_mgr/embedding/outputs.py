"""What callers may get instead of the model's full float32 vectors. Pure functions over unit vectors.

Conventions, those of sentence-transformers' ``quantize_embeddings`` and of Cohere's ``embedding_types``:
``binary`` and ``ubinary`` hold one bit per dimension, set where the number is above zero, the first
dimension in the highest bit; ``ubinary`` as bytes 0 to 255, ``binary`` as the same minus 128. ``int8`` and
``uint8`` divide a range into 255 steps. Sentence-transformers takes the range from a calibration set; here
it is fixed by the width alone, so that vectors of different calls can be compared, and what lies outside
is clipped.
"""

from __future__ import annotations

import base64
import math
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.embedding.vectors import normalise
from llamafile_mgr.errors import RequestError
from llamafile_mgr.planner.plans import Plan

__all__ = ["Encoding", "cut_dimensions", "encode", "integer_range"]

#: The range of the integer encodings, in units of what one number of a unit vector is on average.
_DEVIATIONS = 8.0
_STEPS = 255


class Encoding(str, Enum):
    """How the numbers of a vector are written."""

    FLOAT = "float"
    BASE64 = "base64"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"


def cut_dimensions(vectors: NDArray[np.float32], dimensions: int | None, plan: Plan) -> NDArray[np.float32]:
    """Return the first ``dimensions`` of each vector at unit length; None or the full width cuts nothing.

    Raises:
        RequestError: more than there are, none at all, or a model that was not trained to be cut.
    """
    width = vectors.shape[1]
    if dimensions is None or dimensions == width:
        return vectors
    check_dimensions(dimensions, plan, width)
    cut = np.full((len(vectors), dimensions), np.nan, dtype=np.float32)
    there = np.isfinite(vectors[:, 0])
    if there.any():
        cut[there] = normalise(vectors[there, :dimensions])
    return cut


def check_dimensions(dimensions: int | None, plan: Plan, width: int | None) -> None:
    """Raise RequestError unless vectors of this plan, ``width`` wide, may be cut to ``dimensions``."""
    if dimensions is None or dimensions == width:
        return
    if dimensions < 1 or (width is not None and dimensions > width):
        raise RequestError(f"dimensions is {dimensions}, outside 1 to {width or 'what the model has'}")
    if plan.model is None or not plan.model.matryoshka:
        raise RequestError(
            f"vectors of {plan.name} cannot be cut to {dimensions} dimensions",
            cause="the model was not trained for it, and the rest would mean little",
            hint=f"leave 'dimensions' out to get all {width or ''}".rstrip(),
        )


def integer_range(width: int) -> float:
    """Return r: the integer encodings cover numbers from -r to r for vectors of ``width`` dimensions."""
    return min(1.0, _DEVIATIONS / math.sqrt(width))


def encode(vectors: NDArray[np.float32], encoding: Encoding) -> list[NDArray[np.generic] | str]:
    """Return each unit vector in this encoding: rows of numbers, or base64 of little-endian float32.

    The bits of ``binary`` and ``ubinary`` are filled up with zeros to whole bytes.
    """
    if encoding is Encoding.FLOAT:
        return list(vectors)
    if encoding is Encoding.BASE64:
        little = vectors.astype("<f4", copy=False)
        return [base64.b64encode(row.tobytes()).decode("ascii") for row in little]
    if encoding in (Encoding.BINARY, Encoding.UBINARY):
        bits = np.packbits(vectors > 0, axis=1)
        return list(bits if encoding is Encoding.UBINARY else (bits.astype(np.int16) - 128).astype(np.int8))
    reach = integer_range(vectors.shape[1])
    steps = np.clip(np.floor((vectors.astype(np.float64) + reach) / (2 * reach / _STEPS)), 0, _STEPS)
    return list(steps.astype(np.uint8) if encoding is Encoding.UINT8 else (steps - 128).astype(np.int8))
