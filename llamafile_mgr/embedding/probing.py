"""What every right embedding engine shows, whatever the model: known texts with known relations.

The texts are English and short, for a large model takes a second for each on a processor. Measured on
all-MiniLM-L6-v2 from F32 to Q2_K, ``_pair_share`` is 0.58 to 0.60; with forty vocabularies that were not the
model's own it was 0.12 at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.embedding.vectors import cosines
from llamafile_mgr.errors import EngineStartError
from llamafile_mgr.llamafile.word_pieces import WordPieces

#: Each text means what the one after or before it does, in other words, and nothing that others do.
PROBE_TEXTS = (
    "How do I reset my password?",
    "Steps to recover a forgotten account login.",
    "Bananas are rich in potassium.",
    "This fruit contains many minerals.",
    "A doctor examined the sick child.",
    "The physician looked after an ill boy.",
    "It will rain heavily tomorrow.",
    "Forecasts say that a storm is coming.",
)
#: The first of them and a word more.
LONGER_TEXT = "How do I reset my password today?"
#: Of what parts other texts two of one meaning are this much nearer, at least.
_LEAST_SHARE = 0.2
#: A word more moves a text by this part of what parts it from an unrelated one, at most.
_MOST_MOVED = 0.5
_PLAIN_WORDS = "hello world"
#: Nothing that embeds puts unrelated texts so near.
_ALL_ALIKE = 0.99


def require_near(values: NDArray[np.float64], limit: float, between: str, *, hint: str | None = None) -> None:
    """Raise EngineStartError when one of these cosines is below ``limit``, or no number."""
    worst = int(np.argmin(values))
    if not values[worst] >= limit:
        raise EngineStartError(
            "its vectors are wrong",
            cause=f"cosine {values[worst]:.4f} {between}, at text {worst}, where {limit:g} is the least",
            hint=hint,
        )


def check_meaning(vectors: NDArray[np.float32], *, any_meaning: bool) -> None:
    """Hold the vectors of ``PROBE_TEXTS`` and ``LONGER_TEXT`` against what these mean.

    ``any_meaning``: what only a model of English shows is not asked for.

    Raises:
        EngineStartError: they say something else.
    """
    near, far = cosines(vectors[[0, 0]], vectors[[len(PROBE_TEXTS), 2]])
    if not (far < _ALL_ALIKE and 1 - near <= _MOST_MOVED * (1 - far)):
        raise EngineStartError(
            "its vectors are wrong",
            cause=f"cosine {near:.3f} of a text with itself and a word more, {far:.3f} with an unrelated one",
            hint="the weights may be damaged, or no model that embeds: pull or convert them again",
        )
    share = _pair_share(vectors[: len(PROBE_TEXTS)])
    if not (any_meaning or share >= _LEAST_SHARE):
        raise EngineStartError(
            "its vectors are wrong",
            cause=f"texts that mean the same are nearer than others by {share:.2f} of what parts these, "
            f"where {_LEAST_SHARE} is the least",
            hint="the weights may be damaged or have another model's tokenizer; for a model that knows no "
            "English set any_meaning = true in its settings",
        )


def _pair_share(vectors: NDArray[np.float32]) -> float:
    """Return by which part of their distance pairs are nearer than other texts are."""
    all_cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    pair = np.arange(len(vectors)) // 2
    same = pair[:, None] == pair[None, :]
    others = float(all_cosines[~same].mean())
    pairs = float(np.diagonal(all_cosines, offset=1)[::2].mean())
    return (pairs - others) / (1 - others)


def make_traps(words: WordPieces | None) -> tuple[str, ...]:
    """Return a text that is known to go wrong, and the same text as it cannot; none where there is none.

    Capitals do not shield a model that tells them from small letters.
    """
    trap = words.trap() if words is not None and words.ignores_case else None
    return () if trap is None else (trap, trap.upper())


@dataclass(frozen=True, slots=True)
class KnownTokens:
    """A text and the ids of its tokens, without special ones."""

    text: str
    ids: tuple[int, ...]


def tell_tokens(words: WordPieces | None) -> KnownTokens | None:
    """Return a text with the tokens that the vocabulary makes of it, None where that cannot be computed."""
    if words is None:
        return None
    trap = words.trap()
    text = _PLAIN_WORDS if trap is None else f"{_PLAIN_WORDS} {trap}"
    ids = tuple(each for each in words.tokenize(text) if each is not None)
    return KnownTokens(text, ids) if len(ids) == len(words.tokenize(text)) else None


def check_tokens(known: KnownTokens, tokens: list[object]) -> None:
    """Raise EngineStartError when the engine's tokens of a text are not those of the file's vocabulary."""
    expected, text = known.ids, known.text
    if tuple(tokens) == expected:
        return
    at = next((n for n, pair in enumerate(zip(tokens, expected, strict=False)) if pair[0] != pair[1]), 0)
    raise EngineStartError(
        "its vectors are wrong",
        cause=f"it cuts texts into other tokens than the vocabulary of the file says: of {text!r} it makes "
        f"{tokens[at : at + 3]} where {list(expected[at : at + 3])} are right, from token {at} on",
        hint="engines before June 2024 do so with BERT models: run the weights on a newer one",
    )
