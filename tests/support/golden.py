"""Comparing vectors with MiniLM's golden ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llamafile_mgr.catalog import load_catalog, load_golden

__all__ = ["GOLDEN", "cosine", "golden_cosine"]

GOLDEN = {entry.text: entry.vector for entry in load_golden(load_catalog().models["all-minilm-l6-v2"])}


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the cosine of two vectors."""
    a, b = np.asarray(left, np.float64), np.asarray(right, np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def golden_cosine(text: str, vector: Sequence[float]) -> float:
    """Return the cosine of ``vector`` with the golden one of ``text``."""
    return cosine(GOLDEN[text], vector)
