"""From computed pieces to the answer: one row per text, means of chunks, and what became of each. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.embedding.outputs import cut_dimensions
from llamafile_mgr.embedding.policy import FittedText
from llamafile_mgr.embedding.requests import EmbedResult, ItemOutcome, TextChunk
from llamafile_mgr.embedding.vectors import normalise
from llamafile_mgr.errors import EngineError, Error
from llamafile_mgr.planner.plans import Plan

__all__ = ["Computed", "assemble", "collect_chunks", "cut_result", "weighted_mean"]


@dataclass(frozen=True, slots=True)
class Computed:
    """One final text's unit vector or error. ``tokens``: counted, else None; ``share``: its part
    of what the engine counted for its group."""

    vector: NDArray[np.float32] | None = None
    tokens: int | None = None
    share: float = 0.0
    cached: bool = False
    error: Error | None = None


def assemble(
    fitted: Sequence[FittedText], computed: Mapping[str, Computed], space: str, width: int | None
) -> EmbedResult:
    """Return the result for texts that were fitted so and pieces that were computed so.

    ``width``: of the vectors, for an answer in which every text failed.
    """
    rows: list[NDArray[np.float32] | None] = []
    outcomes: list[ItemOutcome] = []
    total = 0.0
    for text in fitted:
        parts = [computed[piece] for piece, _ in text.pieces]
        row, outcome = _finish(text, parts)
        rows.append(row)
        outcomes.append(outcome)
        total += sum(part.share for part in parts)
    there = [row for row in rows if row is not None]
    size = len(there[0]) if there else width or 1
    vectors = np.full((len(rows), size), np.nan, dtype=np.float32)
    for index, row in enumerate(rows):
        if row is not None:
            vectors[index] = row
    return EmbedResult(vectors, round(total), space, tuple(outcomes))


def cut_result(result: EmbedResult, dimensions: int | None, plan: Plan) -> EmbedResult:
    """Return the result with all vectors, those of chunks too, cut to ``dimensions``. Raises RequestError."""

    def cut(chunk: TextChunk) -> TextChunk:
        return replace(chunk, vector=cut_dimensions(chunk.vector[np.newaxis], dimensions, plan)[0])

    if dimensions is None:
        return result
    return replace(
        result,
        vectors=cut_dimensions(result.vectors, dimensions, plan),
        chunks=tuple(tuple(cut(chunk) for chunk in each) for each in result.chunks),
    )


def _finish(text: FittedText, parts: Sequence[Computed]) -> tuple[NDArray[np.float32] | None, ItemOutcome]:
    outcome = text.outcome
    if outcome.error is not None:
        return None, outcome
    error = next((part.error for part in parts if part.error is not None), None)
    if error is not None:
        return None, replace(outcome, error=error)
    tokens = parts[0].tokens if outcome.tokens is None and len(parts) == 1 else outcome.tokens
    cached = all(part.cached for part in parts)
    if tokens != outcome.tokens or cached:
        outcome = replace(outcome, tokens=tokens, cached=cached)
    weighted = [
        (part.vector, tokens or part.share)
        for part, (_, tokens) in zip(parts, text.pieces, strict=True)
        if part.vector is not None
    ]
    try:
        return weighted_mean(weighted), outcome
    except EngineError as cancelled:
        return None, replace(outcome, error=cancelled)


def collect_chunks(
    fitted: Sequence[FittedText], computed: Mapping[str, Computed]
) -> tuple[tuple[TextChunk, ...], ...]:
    """Return the pieces of every text with their vectors; none for a text that failed."""
    return tuple(_chunks(text, [computed[piece] for piece, _ in text.pieces]) for text in fitted)


def _chunks(text: FittedText, parts: Sequence[Computed]) -> tuple[TextChunk, ...]:
    whole = zip(text.spans, text.pieces, parts, strict=True)
    chunks = tuple(
        TextChunk(start, end, part.vector, tokens or part.tokens)
        for (start, end), (_, tokens), part in whole
        if part.vector is not None
    )
    return chunks if len(chunks) == len(parts) else ()


def weighted_mean(parts: Sequence[tuple[NDArray[np.float32], float]]) -> NDArray[np.float32]:
    """Return the mean of unit vectors by weight, at unit length; one alone is returned as it is.

    Raises:
        EngineError: opposite vectors that leave nothing.
    """
    if len(parts) == 1:
        return parts[0][0]
    weights = np.array([weight for _, weight in parts])
    rows = np.stack([vector for vector, _ in parts]).astype(np.float64)
    mean = (rows * weights[:, np.newaxis]).sum(axis=0) / weights.sum()
    unit: NDArray[np.float32] = normalise(mean[np.newaxis].astype(np.float32))[0]
    return unit
