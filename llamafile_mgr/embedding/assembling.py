"""From computed pieces to the answer: one row per text, means of chunks, and what became of each. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.embedding.policy import FittedText
from llamafile_mgr.embedding.requests import EmbedResult, ItemOutcome, TextChunk
from llamafile_mgr.embedding.vectors import TextVector, normalise
from llamafile_mgr.errors import EngineError, Error, RequestError
from llamafile_mgr.planner.plans import Plan


def assemble(
    fitted: Sequence[FittedText],
    computed: Mapping[str, TextVector | Error],
    space: str,
    width: int | None,
    *,
    with_chunks: bool,
) -> EmbedResult:
    """Return the result for texts that were fitted so and pieces that were computed so.

    ``width``: of the vectors, for an answer in which every text failed. ``with_chunks``: it has the pieces.
    """
    chunks: list[tuple[TextChunk, ...]] = []
    rows: list[NDArray[np.float32] | None] = []
    outcomes: list[ItemOutcome] = []
    total, estimated = 0.0, False
    for text in fitted:
        parts = [computed[piece] for piece, _ in text.pieces]
        row, outcome = _finish(text, parts)
        rows.append(row)
        outcomes.append(outcome)
        if with_chunks:
            chunks.append(_chunks(text, parts))
        counted = [part for part in parts if isinstance(part, TextVector)]
        total += sum(part.share for part in counted)
        estimated = estimated or any(part.estimated for part in counted)
    size = next((len(row) for row in rows if row is not None), width or 1)
    failed = np.full(size, np.nan, dtype=np.float32)
    whole = [failed if row is None else row for row in rows]
    vectors = np.array(whole, dtype=np.float32).reshape(len(rows), size)
    return EmbedResult(vectors, round(total), space, tuple(outcomes), tuple(chunks), estimated)


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


def cut_dimensions(vectors: NDArray[np.float32], dimensions: int | None, plan: Plan) -> NDArray[np.float32]:
    """Return the first ``dimensions`` of each vector at unit length; None or the full width cuts nothing.

    Raises:
        RequestError: more than there are, none at all, or a model that was not trained to be cut.
    """
    width = vectors.shape[1]
    if dimensions is None or dimensions == width:
        return vectors
    check_dimensions(dimensions, plan, width)
    cut = np.full((len(vectors), dimensions), np.nan, dtype=np.float32)
    there = np.isfinite(vectors[:, 0])
    if there.any():
        cut[there] = normalise(vectors[there, :dimensions])
    return cut


def check_dimensions(dimensions: int | None, plan: Plan, width: int | None) -> None:
    """Raise RequestError unless vectors of this plan, ``width`` wide, may be cut to ``dimensions``."""
    if dimensions is None or dimensions == width:
        return
    if dimensions < 1 or (width is not None and dimensions > width):
        raise RequestError(f"dimensions is {dimensions}, outside 1 to {width or 'what the model has'}")
    if plan.model is None or not plan.model.matryoshka:
        raise RequestError(
            f"vectors of {plan.name} cannot be cut to {dimensions} dimensions",
            cause="the model was not trained for it, and the rest would mean little",
            hint=f"leave 'dimensions' out to get all {width or ''}".rstrip(),
        )


def _finish(
    text: FittedText, parts: Sequence[TextVector | Error]
) -> tuple[NDArray[np.float32] | None, ItemOutcome]:
    outcome = text.outcome
    if outcome.error is not None:
        return None, outcome
    vectors: list[TextVector] = []
    for part in parts:
        if isinstance(part, Error):
            return None, replace(outcome, error=part)
        vectors.append(part)
    tokens = vectors[0].tokens if outcome.tokens is None and len(vectors) == 1 else outcome.tokens
    cached = all(part.cached for part in vectors)
    if tokens != outcome.tokens or cached:
        outcome = replace(outcome, tokens=tokens, cached=cached)
    weighted = [
        (part.vector, tokens or part.share) for part, (_, tokens) in zip(vectors, text.pieces, strict=True)
    ]
    try:
        return weighted_mean(weighted), outcome
    except EngineError as cancelled:
        return None, replace(outcome, error=cancelled)


def _chunks(text: FittedText, parts: Sequence[TextVector | Error]) -> tuple[TextChunk, ...]:
    """Return the pieces of a text with their vectors; none for a text that failed."""
    whole = zip(text.spans, text.pieces, parts, strict=True)
    chunks = tuple(
        TextChunk(start, end, part.vector, tokens or part.tokens)
        for (start, end), (_, tokens), part in whole
        if isinstance(part, TextVector)
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
