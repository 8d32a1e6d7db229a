"""What a reranking engine must show before it takes calls: scores in a sensible order, and the same again."""

from __future__ import annotations

from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.reranking import read_scores, rerank_request
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineStartError

__all__ = ["RerankChecks"]

_QUERY = "How do I reset my password?"
_ANSWER = "To reset your password, open the settings and choose a new one."
_NO_ANSWER = "Bananas are rich in potassium."
#: A pair alone and among others differs by rounding only; the share is of the distance that it must keep.
_TOLERANCE = 0.05
_REQUEST_SECONDS = 600.0


class RerankChecks:
    """Checks of a reranking engine."""

    def __init__(self) -> None:
        self._right: float | None = None
        self._distance = 0.0

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        """Score an answer and something else, alone and together. Raises EngineError."""
        right, wrong = await _score(client, _ANSWER, _NO_ANSWER)
        if right <= wrong:
            raise EngineStartError(
                "its scores are wrong",
                cause=f"an answer to a question is scored no higher ({right:.3f}) than none ({wrong:.3f})",
                hint="the model may be no reranker; a model that embeds is served with --embed",
            )
        self._right, self._distance = right, right - wrong
        await self.check_alive(client, rules)

    async def check_alive(self, client: EngineClient, rules: EngineFamily) -> None:
        """Score one pair and compare it with the first time. Raises EngineError."""
        (now,) = await _score(client, _ANSWER)
        if self._right is not None and abs(now - self._right) > _TOLERANCE * self._distance:
            raise EngineStartError(
                "its scores are wrong", cause=f"{now:.3f} for a pair that had {self._right:.3f} at the start"
            )


async def _score(client: EngineClient, *documents: str) -> list[float]:
    reply = await client.request(rerank_request(_QUERY, documents), deadline_seconds=_REQUEST_SECONDS)
    return read_scores(reply, len(documents))
