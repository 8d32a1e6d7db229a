"""Vectors cut to what callers ask for. Pure functions over unit vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.embedding.vectors import normalise
from llamafile_mgr.errors import RequestError
from llamafile_mgr.planner.plans import Plan

__all__ = ["check_dimensions", "cut_dimensions"]


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
