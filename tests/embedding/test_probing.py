"""What the checks make of vectors and tokens; the vectors are those that the embedded engine gave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from llamafile_mgr.embedding.limits import cosine_limits
from llamafile_mgr.embedding.probing import (
    LONGER_TEXT,
    PROBE_TEXTS,
    KnownTokens,
    check_meaning,
    check_tokens,
    make_traps,
    require_near,
    tell_tokens,
)
from llamafile_mgr.embedding.vectors import normalise
from llamafile_mgr.errors import EngineStartError
from llamafile_mgr.llamafile.ggml_types import FILE_TYPES
from llamafile_mgr.llamafile.word_pieces import WordPieces

RECORDED = json.loads(
    (Path(__file__).parent.parent / "support/captures/probes-minilm.json").read_text("ascii")
)
RIGHT = normalise(np.array([RECORDED["vectors"][text] for text in (*PROBE_TEXTS, LONGER_TEXT)], np.float32))
RANDOM = np.random.default_rng(11)
WORDS = WordPieces({"▁hello": 1, "▁world": 2, "world": 3, "[UNK]": 0}, 0)


def unit(vectors: NDArray[np.float64] | NDArray[np.float32]) -> NDArray[np.float32]:
    return normalise(vectors.astype(np.float32))


def test_right_vectors_pass() -> None:
    check_meaning(RIGHT, any_meaning=False)


def test_anisotropic_vectors_pass() -> None:
    # Models such as e5 put all texts within a narrow cone.
    check_meaning(unit(RIGHT + 3 * RIGHT.mean(0) / np.linalg.norm(RIGHT.mean(0))), any_meaning=False)


@pytest.mark.parametrize(
    "wrong",
    [
        RIGHT[[1, 2, 3, 4, 5, 6, 7, 0, 8]],  # each text has its neighbour's
        unit(np.ones_like(RIGHT) + 1e-3 * RIGHT),  # all alike
        unit(RANDOM.normal(0, 1, RIGHT.shape)),
        np.vstack([RIGHT[:-1], RIGHT[2:3]]),  # a word more leads far away
    ],
)
def test_wrong_vectors_do_not(wrong: NDArray[np.float32]) -> None:
    with pytest.raises(EngineStartError, match="its vectors are wrong"):
        check_meaning(wrong, any_meaning=False)


def test_a_model_that_knows_no_english_is_served_on_purpose() -> None:
    bags = RANDOM.normal(0, 1, RIGHT.shape)
    bags[-1] = bags[0] + 0.3 * RANDOM.normal(0, 1, RIGHT.shape[1])  # a word more moves a text a little
    foreign = unit(bags)
    with pytest.raises(EngineStartError) as caught:
        check_meaning(foreign, any_meaning=False)
    assert "any_meaning = true" in (caught.value.hint or "")
    check_meaning(foreign, any_meaning=True)


def test_other_tokens_are_told_with_their_place() -> None:
    known = tell_tokens(WORDS)
    assert known == KnownTokens("hello world world", (1, 2, 2))
    check_tokens(known, [1, 2, 2])
    with pytest.raises(EngineStartError) as caught:
        check_tokens(known, [1, 3, 3])
    assert "makes [3, 3] where [2, 2] are right, from token 1 on" in (caught.value.cause or "")
    for wrong in ([], [1], [1, 2, 2, 2], [101, 1, 2, 2, 102]):
        with pytest.raises(EngineStartError):
            check_tokens(known, list(wrong))


def test_tokens_that_cannot_be_computed_are_not_asked_for() -> None:
    assert tell_tokens(None) is None
    assert tell_tokens(WordPieces({"▁hello": 1}, None)) is None
    assert tell_tokens(WordPieces({"▁hello": 1}, 0)) == KnownTokens("hello world", (1, 0))


def test_a_trap_has_a_twin_in_capitals_where_the_model_ignores_them() -> None:
    assert make_traps(WORDS) == ("world", "WORLD")
    assert make_traps(WordPieces({**WORDS.ids, "▁Hello": 9}, 0)) == ()
    assert make_traps(None) == ()


def test_a_cosine_that_is_no_number_is_not_near() -> None:
    require_near(np.array([0.99, 0.98]), 0.98, "x")
    for worst in (0.97, float("nan")):
        with pytest.raises(EngineStartError, match="wrong"):
            require_near(np.array([0.99, worst]), 0.98, "x")


def test_every_file_type_has_limits_and_coarser_ones_no_higher() -> None:
    for name in (None, *FILE_TYPES.values()):
        limits = cosine_limits(name)
        assert 0 < limits.golden < limits.repeat < 1
        assert limits.elsewhere <= 0.999
    falling = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q2_K", "IQ1_S"]
    golden = [cosine_limits(name).golden for name in falling]
    assert golden == sorted(golden, reverse=True)
    assert cosine_limits(None) == cosine_limits("F32")
