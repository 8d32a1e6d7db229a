"""Cutting vectors: who may, and what comes of it."""

from __future__ import annotations

import numpy as np
import pytest

from llamafile_mgr.embedding.assembling import cut_dimensions
from llamafile_mgr.errors import RequestError
from tests.embedding.stub_pool import make_plan
from tests.support.golden import GOLDEN

ROWS = np.array(list(GOLDEN.values()), dtype=np.float32)


def test_cut_vectors_are_units_again() -> None:
    plan = make_plan("mxbai-embed-large-v1")
    cut = cut_dimensions(ROWS, 64, plan)
    assert cut.shape == (len(ROWS), 64)
    assert np.allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-6)
    assert cut_dimensions(ROWS, 384, plan) is ROWS
    assert cut_dimensions(ROWS, None, plan) is ROWS


def test_other_models_are_not_cut() -> None:
    with pytest.raises(RequestError, match="cannot be cut to 64 dimensions"):
        cut_dimensions(ROWS, 64, make_plan("e5-mistral-7b-instruct"))
