"""Where an over-long text is cut. Pure: who counts the tokens of a piece is the caller's affair.

Every search is a generator: it yields a piece of the text, is sent that piece's tokens (with prompt and
special tokens), and returns its result. ``drive`` in ``policy`` answers from the engine's tokenizer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
#: Yields pieces to count, is sent their tokens, returns a T.
Search = Generator[str, int, T]

#: The part of a chunk that the next one repeats, so that no sentence's context is lost at a border.
OVERLAP = 0.1
#: A cut is moved back to a border of words or sentences when one lies in the piece's last part.
_WORD_PART, _SENTENCE_PART = 0.1, 0.5
#: A search ends after so many counts with the longest piece found so far.
_MOST_COUNTS = 24
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]+|\n\s*\n")
_SPACE = re.compile(r"\s+")
#: Joins emoji, and chooses how the character before it is drawn: never the first of a piece.
_JOINERS = "\u200d\ufe0f\ufe0e"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, with its tokens and where it starts."""

    body: str
    tokens: int
    start: int = 0


def cut_right(text: str, limit: int, tokens: int) -> Search[Piece]:
    """Find the longest beginning of at most ``limit`` tokens; ``text`` has ``tokens``, which are more.

    The beginning is empty when nothing fits. It ends between words where that costs less than a tenth.
    """
    return (yield from _cut(text, 0, limit, tokens))


def cut_left(text: str, limit: int, tokens: int) -> Search[Piece]:
    """Find the longest end of at most ``limit`` tokens; see ``cut_right``."""
    return (yield from _cut(text, len(text), limit, tokens))


def split(text: str, limit: int, tokens: int, overlap: float = OVERLAP) -> Search[tuple[Piece, ...]]:
    """Cut ``text`` into pieces of at most ``limit`` tokens that cover all of it.

    Pieces end at sentences where one ends in their second half, else between words, else anywhere; each
    repeats about ``overlap`` of the one before. Without room for a single character there are none.
    """
    pieces: list[Piece] = []
    start, per_character = 0, max(tokens, 1) / max(len(text), 1)
    while start < len(text):
        window = min(len(text), start + max(16, int(1.5 * limit / per_character)))
        whole = yield text[start:window]
        while whole <= limit and window < len(text):
            window = min(len(text), start + 2 * (window - start))
            whole = yield text[start:window]
        if whole <= limit:
            pieces.append(Piece(text[start:], whole, start))
            break
        end, count = yield from _find_cut(text, start, window, limit, whole)
        if end <= start:
            return ()
        border = _border(text, start, end)
        if border < end:
            shorter = yield text[start:border]
            if shorter <= limit:
                end, count = border, shorter
        pieces.append(Piece(text[start:end], count, start))
        start = _next_start(text, start, end, overlap)
    return tuple(piece for piece in pieces if not piece.body.isspace()) or tuple(pieces[:1])


def _cut(text: str, anchor: int, limit: int, tokens: int) -> Search[Piece]:
    """Find the longest piece at ``anchor``, the start or the end of the text."""
    cut, count = yield from _find_cut(text, anchor, len(text) - anchor, limit, tokens)
    if 0 < cut < len(text) and not _between_words(text, cut):
        reach = abs(cut - anchor) * _WORD_PART
        before, after = _last_match(_SPACE, text, max(0, cut - int(reach)), cut), _SPACE.search(text, cut)
        if anchor == 0:
            borders = (after.start() if after else len(text), before.start() if before else 0)
        else:
            borders = (before.end() if before else 0, after.end() if after else len(text))
        for border in borders:
            if abs(border - cut) <= reach and border != anchor:
                other = yield _between(text, anchor, border)
                if other <= limit:
                    return Piece(_between(text, anchor, border), other, min(anchor, border))
    return Piece(_between(text, anchor, cut), count, min(anchor, cut))


def _between(text: str, one: int, other: int) -> str:
    return text[min(one, other) : max(one, other)]


def _find_cut(text: str, anchor: int, over: int, limit: int, tokens: int) -> Search[tuple[int, int]]:
    """Find the position nearest ``over`` so that the piece between it and ``anchor`` fits, and its tokens.

    ``tokens`` are those of the whole stretch, which does not fit. Returns ``anchor`` when nothing fits.
    """
    fits, fit_tokens, over_tokens = anchor, 0, tokens
    for step in range(_MOST_COUNTS):
        if abs(over - fits) <= 1 or fit_tokens == limit:
            break
        guess = _guess(fits, over, limit - fit_tokens, over_tokens - fit_tokens, step)
        cut = _clean(text, guess)
        cut = cut if min(fits, over) < cut < max(fits, over) else guess
        count = yield _between(text, anchor, cut)
        if count <= limit:
            fits, fit_tokens = cut, count
        else:
            over, over_tokens = cut, count
    return fits, fit_tokens


def _guess(start: int, end: int, part: int, whole: int, step: int) -> int:
    """Return a position strictly between: by proportion, every third time in the middle, which bounds the
    number of steps where tokens are spread unevenly."""
    if step % 3 == 2 or whole <= 0:
        return (start + end) // 2
    low, high = min(start, end), max(start, end)
    return min(high - 1, max(low + 1, start + (end - start) * part // whole))


def _between_words(text: str, cut: int) -> bool:
    return text[cut - 1].isspace() or text[cut].isspace()


def _clean(text: str, cut: int) -> int:
    """Return the nearest position at or before ``cut`` that does not part a letter from its marks."""
    while 0 < cut < len(text) and (
        unicodedata.combining(text[cut]) or text[cut] in _JOINERS or text[cut - 1] == "\u200d"
    ):
        cut -= 1
    return cut


def _border(text: str, start: int, end: int) -> int:
    """Return where a piece that may reach ``end`` should end."""
    length = end - start
    sentence = _last_match(_SENTENCE_END, text, end - int(length * _SENTENCE_PART), end)
    if sentence is not None:
        return sentence.end()
    word = _last_match(_SPACE, text, end - int(length * _SENTENCE_PART), end)
    return word.end() if word is not None else end


def _next_start(text: str, start: int, end: int, overlap: float) -> int:
    """Return where the piece after ``[start, end)`` begins: a little before its end, between words."""
    back = end - int((end - start) * overlap)
    border = _SPACE.search(text, back, end)
    begin = border.end() if border is not None else _clean(text, back)
    return begin if begin > start else end


def _last_match(pattern: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    last = None
    for match in pattern.finditer(text, start, end):
        last = match
    return last
