"""Cutting and splitting: nothing exceeds the limit, nothing is lost, everything is said."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llamafile_mgr.catalog import Pooling
from llamafile_mgr.embedding.chunking import Piece, Search, T, cut_left, cut_right, split
from llamafile_mgr.embedding.embedder import Embedder
from llamafile_mgr.embedding.lengths import (
    TokenCounter,
    estimate_tokens,
    special_tokens,
    surely_fits,
    text_limit,
)
from llamafile_mgr.embedding.policy import fit_text
from llamafile_mgr.embedding.prompts import PromptedText
from llamafile_mgr.embedding.requests import EmbedRequest, Truncation
from llamafile_mgr.engines.families import Family
from llamafile_mgr.errors import InputTooLongError
from llamafile_mgr.supervisor.calls import Caller, Deadline
from tests.embedding.stub_pool import StubPool, make_plan

#: Words of one to three tokens and two specials, as a word-piece tokenizer would make them.
TEXTS = st.text(alphabet="ab é.!?\n中👍", min_size=1, max_size=400)


def tokens(text: str) -> int:
    return 2 + sum(-(-len(word) // 3) for word in re.findall(r"\w+|[^\w\s]", text))


def run(search: Search[T]) -> tuple[T, int]:
    """Run a search with ``tokens`` as the oracle; return its result and how often it counted."""
    counts = 0
    try:
        piece = next(search)
        while True:
            counts += 1
            piece = search.send(tokens(piece))
    except StopIteration as stop:
        return stop.value, counts


@settings(deadline=None)
@given(TEXTS, st.integers(3, 30))
@example("a" * 300, 10)
def test_a_cut_fits_and_is_a_part(text: str, limit: int) -> None:
    whole = tokens(text)
    if whole <= limit:
        return
    right, _ = run(cut_right(text, limit, whole))
    left, _ = run(cut_left(text, limit, whole))
    assert text.startswith(right.body)
    assert text.endswith(left.body)
    for piece in (right, left):
        assert tokens(piece.body) == piece.tokens <= limit or piece.body == ""


def test_a_cut_keeps_what_it_can_and_whole_words() -> None:
    text = " ".join(f"word{n:04d}" for n in range(2000))  # three tokens each
    right, counts = run(cut_right(text, 302, tokens(text)))
    assert right.body == text[: 100 * 9 - 1]
    left, _ = run(cut_left(text, 302, tokens(text)))
    assert left.body == text[-(100 * 9 - 1) :]
    assert counts <= 12


def test_a_letter_keeps_its_marks() -> None:
    text = "e\u0301" * 100
    piece, _ = run(cut_right(text, 20, tokens(text)))
    assert not piece.body.endswith("e")


@settings(deadline=None)
@given(TEXTS, st.integers(3, 30))
def test_chunks_fit_and_cover_the_text_in_order(text: str, limit: int) -> None:
    pieces, _ = run(split(text, limit, tokens(text)))
    at = 0
    for piece in pieces:
        assert tokens(piece.body) == piece.tokens <= limit
        assert text.startswith(piece.body, piece.start)
        assert piece.start <= at or not text[at : piece.start].strip()  # only blanks lie between two
        assert piece.start + len(piece.body) > at
        at = piece.start + len(piece.body)
    assert not text[at:].strip() or not pieces


def test_chunks_end_at_sentences_and_overlap() -> None:
    sentences = [f"Sentence number {n} is about a thing." for n in range(60)]
    text = " ".join(sentences)
    pieces, counts = run(split(text, 60, tokens(text)))
    assert len(pieces) > 5
    assert all(piece.body.rstrip().endswith(".") for piece in pieces)
    for before, after in itertools.pairwise(pieces):
        assert after.body[:8] in before.body
    assert counts / len(pieces) < 10


def test_no_room_at_all() -> None:
    assert run(split("aaaa", 2, 4))[0] == ()
    assert run(cut_right("aaaa", 2, 4))[0].body == ""
    assert run(cut_left("aaaa", 2, 4))[0].body == ""


@pytest.mark.parametrize(
    ("text", "limit", "sure"),
    [
        ("a" * 61, 64, True),
        ("a" * 62, 64, False),
        ("é" * 31, 64, False),
        ("é" * 30, 64, True),
        ("a", None, True),
    ],
)
def test_what_needs_no_counting(text: str, limit: int | None, sure: bool) -> None:
    assert surely_fits(text, limit) is sure


@settings(deadline=None)
@given(st.text())
def test_estimates_are_sane(text: str) -> None:
    assert 2 <= estimate_tokens(text) <= 2 + len(text.encode("utf-8", "replace"))


def test_v1_counts_without_specials_and_keeps_one_below_its_context() -> None:
    bert = make_plan("mxbai-embed-large-v1", family=Family.V1)
    mistral = make_plan("e5-mistral-7b-instruct", family=Family.V1)
    assert (special_tokens(bert), special_tokens(mistral), special_tokens(make_plan())) == (2, 1, 0)
    assert (text_limit(bert), text_limit(make_plan())) == (63, 64)


def test_causal_models_keep_one_below_their_context() -> None:
    assert text_limit(make_plan(pooling=Pooling.LAST)) == 63
    assert text_limit(make_plan(pooling=Pooling.LAST, max_tokens=40)) == 40
    assert text_limit(make_plan(pooling=Pooling.MEAN)) == 64


async def test_counts_are_remembered_but_not_for_ever() -> None:
    pool = StubPool()
    counter = TokenCounter(pool.calls, pool.plan, remember=2)
    for text in ("a", "a", "b", "a", "c", "b", "a"):
        assert await counter.count(text, Caller("", Deadline.after(1, 1))) == 3
    assert pool.engines[0].tokenized == ["a", "b", "c", "b", "a"]


async def test_a_text_that_a_call_repeats_is_counted_once() -> None:
    pool = StubPool()
    await Embedder(pool.as_pool()).embed(EmbedRequest(("word " * 40,) * 500))
    assert len(pool.engines[0].tokenized) == 1
    assert pool.groups == [["word " * 40]]


async def fit(text: str, how: Truncation, before: str = "") -> list[str]:
    async def count(piece: str) -> int:
        return tokens(piece)

    fitted = await fit_text(PromptedText(before, text, "!"), how, 20, count, name="m", index=7)
    assert fitted.outcome.truncated is (how if tokens(before + text + "!") > 20 else None)
    assert fitted.outcome.chunks == len(fitted.pieces)
    assert all(piece.startswith(before) and piece.endswith("!") for piece, _ in fitted.pieces)
    assert all(known is None or known == tokens(piece) <= 20 for piece, known in fitted.pieces)
    return [piece for piece, _ in fitted.pieces]


async def test_every_cut_keeps_the_prompt_and_is_reported() -> None:
    long = " ".join(["word"] * 50)
    assert await fit("short", Truncation.ERROR) == ["short!"]
    [right] = await fit(long + " end", Truncation.RIGHT, "query: ")
    [left] = await fit("start " + long, Truncation.LEFT, "query: ")
    assert "end" not in right
    assert "start" not in left
    assert len(await fit(long, Truncation.CHUNK, "query: ")) > 5


async def test_a_long_text_is_refused_by_name_tokens_and_limit() -> None:
    with pytest.raises(InputTooLongError, match="text 7 has 103 tokens, more than the 20 that m takes"):
        await fit(" ".join(["word"] * 50), Truncation.ERROR)


async def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    for how in (Truncation.RIGHT, Truncation.LEFT, Truncation.CHUNK):
        with pytest.raises(InputTooLongError, match="leaves no room"):
            await fit("word " * 9, how, "a " * 30)


def test_a_piece_is_a_value() -> None:
    assert Piece("a", 3) == Piece("a", 3)
