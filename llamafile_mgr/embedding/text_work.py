"""A batch of texts through an engine: every text gets a vector or the reason why it has none.

When an engine refuses a batch, answers nonsense or writes no real vector, the batch is halved until the
culprit stands alone. What becomes of texts whose engine is lost is the pool's affair.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence

import numpy as np

from llamafile_mgr.embedding.embed_counters import EmbedderStats
from llamafile_mgr.embedding.vectors import TextVector, scale_rows
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.messages import EngineReply, EngineVectors
from llamafile_mgr.engines.replies import error_text, says_too_long
from llamafile_mgr.errors import EngineError, Error, InputTooLongError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.calls import Priority
from llamafile_mgr.supervisor.permits import WorkerSlot

_LOADING = re.compile(r"loading model", re.I)
#: Before an engine that loads, and is already taken for ready, is asked again.
_PAUSE_SECONDS = 0.02


class TextWork:
    """Embeds texts, and counts in ``stats`` what was sent and how long it took and waited."""

    def __init__(self, stats: EmbedderStats) -> None:
        self._stats = stats

    def note_wait(self, priority: Priority, seconds: float, items: int) -> None:
        """Count it."""
        self._stats.waiting_seconds[priority].add(seconds, items)

    def discard(self, result: TextVector) -> None:
        """A vector holds nothing."""

    async def compute(
        self, slot: WorkerSlot, payloads: Sequence[str], tokens: Sequence[int]
    ) -> list[TextVector | Error]:
        """Return one result per text; ``tokens``: the caller's estimates, for sharing out sums.

        Raises:
            EngineLostError: the engine was lost.
        """
        reply = await self._ask(slot, payloads)
        try:
            answer = _read(slot.engine.plan, reply, len(payloads))
        except Error as error:
            if len(payloads) == 1:
                if reply.status == 200:
                    slot.engine.suspect()
                return [error]
            half = len(payloads) // 2
            first = await self.compute(slot, payloads[:half], tokens[:half])
            return first + await self.compute(slot, payloads[half:], tokens[half:])
        return await self._check(slot, payloads, tokens, answer)

    async def _check(
        self, slot: WorkerSlot, texts: Sequence[str], tokens: Sequence[int], answer: EngineVectors
    ) -> list[TextVector | Error]:
        """Turn rows into results; a row that is no vector is asked for once more, alone.

        When it is none again, either the text is to blame or the engine, which then has to prove itself.
        """
        units, bad = scale_rows(answer.vectors)
        estimated, total = max(1, sum(tokens)), answer.prompt_tokens
        alone = total if len(texts) == 1 else None
        results: list[TextVector | Error] = [
            TextVector(row, alone, (total or 0) * count / estimated)
            for row, count in zip(units, tokens, strict=True)
        ]
        for index in np.flatnonzero(bad).tolist():
            if len(texts) == 1:
                slot.engine.suspect()
                what = "numbers that are not finite" if bad[index] == 2 else "a zero vector"
                results[index] = EngineError(f"the engine gave {what}")
            else:
                results[index] = (await self.compute(slot, [texts[index]], [tokens[index]]))[0]
        return results

    async def _ask(self, slot: WorkerSlot, texts: Sequence[str]) -> EngineReply:
        """Send one request; an engine that says that it still loads is asked again until it answers."""
        request = family_rules(slot.engine.plan.family).embed(texts)
        client = slot.connection()
        while True:
            self._stats.batches += 1
            began = time.monotonic()
            try:
                reply = await client.request(request)
            finally:
                self._stats.engine_seconds.add(time.monotonic() - began)
            if reply.status != 503 or not _LOADING.search(error_text(reply)):
                return reply
            await asyncio.sleep(_PAUSE_SECONDS)


def _read(plan: Plan, reply: EngineReply, count: int) -> EngineVectors:
    """Return the vectors in the reply of an engine with this plan. Raises EngineError."""
    if says_too_long(reply):
        raise InputTooLongError(f"the engine refused the text as too long: {error_text(reply)}")
    answer = family_rules(plan.family).read_vectors(reply, count)
    rows, width = answer.vectors.shape
    if rows != count:
        raise EngineError(f"the engine gave {rows} vectors for {count} texts")
    if plan.dimensions is not None and width != plan.dimensions:
        raise EngineError(
            f"the engine gave a vector of {width} dimensions where {plan.dimensions} were expected"
        )
    return answer
