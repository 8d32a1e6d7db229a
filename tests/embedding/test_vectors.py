"""Normalising: unit length for every real vector, an error for every other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llamafile_mgr.embedding.vectors import cosines, normalise
from llamafile_mgr.errors import EngineError

ROWS = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 8)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
)


@given(ROWS)
def test_unit_length_or_an_error(rows: np.ndarray) -> None:
    if (np.linalg.norm(rows.astype(np.float64), axis=1) < 1e-12).any():
        with pytest.raises(EngineError, match="zero vector"):
            normalise(rows)
        return
    unit = normalise(rows)
    assert unit.dtype == np.float32
    assert np.allclose(np.linalg.norm(unit.astype(np.float64), axis=1), 1.0, atol=1e-6)
    assert np.allclose(cosines(unit, unit), 1.0, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_by_its_index(bad: float) -> None:
    rows = np.ones((3, 4), np.float32)
    rows[1, 2] = bad
    with pytest.raises(EngineError, match="not finite for text 1"):
        normalise(rows)
