"""What became of single texts, for the dialects that have room to say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafile_mgr.embedding.requests import EmbedResult

_MOST_NAMED = 100


def failed(result: EmbedResult, index: int) -> bool:
    """Tell whether this text has no vector."""
    return bool(result.outcomes) and result.outcomes[index].error is not None


def describe_outcome(result: EmbedResult, index: int) -> dict[str, Any]:
    """Return what is noteworthy of one text; nothing for one that was embedded whole."""
    if not result.outcomes:
        return {}
    outcome = result.outcomes[index]
    said: dict[str, Any] = {}
    if outcome.error is not None:
        said["error"] = {"message": outcome.error.describe(), "code": outcome.error.code}
    if outcome.truncated is not None:
        said["truncated"] = outcome.truncated.value
    if outcome.chunks > 1:
        said["chunks"] = outcome.chunks
    if said and outcome.tokens is not None:
        said["tokens"] = outcome.tokens
    return said


def outcome_headers(result: EmbedResult) -> Mapping[str, str]:
    """Return headers that tell of cut texts and guessed token counts in every dialect, so that none is cut
    and nothing is guessed in silence."""
    headers: dict[str, str] = {}
    cut = [index for index, outcome in enumerate(result.outcomes) if outcome.truncated is not None]
    if cut:
        more = ", ..." if len(cut) > _MOST_NAMED else ""
        headers["x-truncated"] = ", ".join(str(index) for index in cut[:_MOST_NAMED]) + more
    cached = sum(outcome.cached for outcome in result.outcomes)
    if cached:
        headers["x-cached"] = str(cached)
    if result.estimated:
        headers["x-tokens-estimated"] = "true"
    return headers
