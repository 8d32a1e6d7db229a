"""Encodings and cuts: the published conventions, and what they cost."""

from __future__ import annotations

import base64

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafile_mgr.embedding.outputs import Encoding, cut_dimensions, encode, integer_range
from llamafile_mgr.embedding.vectors import cosines, normalise
from llamafile_mgr.errors import RequestError
from tests.embedding.stub_pool import make_plan
from tests.support.golden import GOLDEN

ROWS = np.array(list(GOLDEN.values()), dtype=np.float32)
UNIT = np.array([[0.6, -0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=np.float32)


def test_float_and_base64_are_exact() -> None:
    assert np.array_equal(np.stack(encode(ROWS, Encoding.FLOAT)), ROWS)
    texts = encode(ROWS, Encoding.BASE64)
    assert np.array_equal(
        np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in texts]),
        ROWS,  # type: ignore[arg-type]
    )


def test_bits_are_those_of_sentence_transformers() -> None:
    rows = np.array([[1, -1, 0, 1, 1, -1, -1, 1, 1], [-1] * 8 + [1]], dtype=np.float32)
    ubinary, binary = encode(rows, Encoding.UBINARY), encode(rows, Encoding.BINARY)
    # As quantize_embeddings(..., precision="ubinary" and "binary") gives them.
    assert [row.tolist() for row in ubinary] == [[0b10011001, 0b10000000], [0, 0b10000000]]  # type: ignore[union-attr]
    assert [row.tolist() for row in binary] == [[153 - 128, 0], [-128, 0]]  # type: ignore[union-attr]
    assert binary[0].dtype == np.int8  # type: ignore[union-attr]


def test_integers_divide_a_fixed_range_and_clip() -> None:
    assert integer_range(9) == 1.0
    [row] = encode(UNIT, Encoding.UINT8)
    assert row.tolist() == [204, 25] + [127] * 7  # type: ignore[union-attr]
    [row] = encode(UNIT, Encoding.INT8)
    assert row.tolist() == [76, -103] + [-1] * 7  # type: ignore[union-attr]
    wide = np.zeros((1, 384), np.float32)
    wide[0, 0], wide[0, 1] = 0.8, -0.6
    [row] = encode(wide, Encoding.INT8)
    assert row[:2].tolist() == [127, -128]  # type: ignore[union-attr]


def test_integers_keep_what_vectors_mean() -> None:
    for encoding, shift in ((Encoding.INT8, 0.5), (Encoding.UINT8, -127.5)):
        rows = np.stack(encode(ROWS, encoding)).astype(np.float32) + shift  # type: ignore[arg-type]
        assert cosines(normalise(rows), ROWS).min() > 0.999


@settings(deadline=None)
@given(st.sampled_from(list(Encoding)), st.integers(1, 5))
def test_every_encoding_is_json(encoding: Encoding, count: int) -> None:
    rows = encode(ROWS[:count], encoding)
    assert len(rows) == count
    assert orjson.loads(orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY))


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
