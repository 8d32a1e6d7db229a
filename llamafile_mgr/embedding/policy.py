"""The length policy: what becomes of a text with more tokens than the model takes. Nothing is cut unsaid."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from llamafile_mgr.embedding.chunking import Piece, Search, cut_left, cut_right, split
from llamafile_mgr.embedding.lengths import surely_fits
from llamafile_mgr.embedding.prompts import PromptedText
from llamafile_mgr.embedding.requests import ItemOutcome, Truncation
from llamafile_mgr.errors import InputTooLongError

T = TypeVar("T")
#: Returns the tokens of a text as the engine reads it, special tokens included.
Count = Callable[[str], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class FittedText:
    """What is embedded for one text: texts with their tokens (None where not counted), and the report.

    Several texts stand for one by their mean, weighted by tokens. ``spans``: where each piece starts and ends
    in the caller's text.
    """

    pieces: tuple[tuple[str, int | None], ...]
    outcome: ItemOutcome
    spans: tuple[tuple[int, int], ...] = ()


def keep_whole(text: PromptedText, tokens: int | None = None) -> FittedText:
    """Return ``text`` uncut; ``tokens`` None where nothing counted them."""
    span = (text.start, text.start + len(text.body))
    return FittedText(((text.text, tokens),), ItemOutcome(tokens=tokens), (span,))


async def fit_text(
    text: PromptedText, truncation: Truncation, limit: int | None, count: Count, *, name: str, index: int
) -> FittedText:
    """Return what to embed for ``text`` so that nothing exceeds ``limit`` tokens.

    ``name`` and ``index``: of the model and of the text, for the error.

    Raises:
        InputTooLongError: the text is too long and must not be cut, or its prompt alone leaves no room.
    """
    whole = text.text
    if limit is None or surely_fits(whole, limit):
        return keep_whole(text)
    tokens = await count(whole)
    if tokens <= limit:
        return keep_whole(text, tokens)
    if truncation is Truncation.ERROR:
        raise InputTooLongError(
            f"text {index} has {tokens} tokens, more than the {limit} that {name} takes",
            hint="send a shorter text, or say how it may be cut: truncate = right, left or chunk",
        )
    pieces = await drive(_search(text.body, truncation, limit, tokens), text, count)
    if not all(piece.body for piece in pieces) or not pieces:
        raise InputTooLongError(
            f"the prompt of text {index} leaves no room for the text in the {limit} tokens that {name} takes"
        )
    return FittedText(
        tuple((text.with_body(piece.body).text, piece.tokens) for piece in pieces),
        ItemOutcome(tokens=tokens, truncated=truncation, chunks=len(pieces)),
        tuple((text.start + piece.start, text.start + piece.start + len(piece.body)) for piece in pieces),
    )


def _search(body: str, truncation: Truncation, limit: int, tokens: int) -> Search[tuple[Piece, ...]]:
    if truncation is Truncation.CHUNK:
        return (yield from split(body, limit, tokens))
    cut = cut_left if truncation is Truncation.LEFT else cut_right
    return ((yield from cut(body, limit, tokens)),)


async def drive(search: Search[T], text: PromptedText, count: Count) -> T:
    """Run a search to its end, counting each piece with the prompt around it."""
    try:
        piece = next(search)
        while True:
            piece = search.send(await count(text.with_body(piece).text))
    except StopIteration as stop:
        result: T = stop.value
        return result
