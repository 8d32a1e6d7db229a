"""One group of texts through an engine: every text gets a vector or the reason why it has none.

When an engine refuses a group, answers nonsense or writes no real vector, the group is halved until the
culprit stands alone. When an engine is killed by somebody, its group is sent again as it is. When it dies by
itself, its texts are sent again one by one: each further death costs a start, and only a text that engines
die of when they are given nothing else is to blame.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.embedding.engine_pool import EngineConnection, EnginePool, Replica
from llamafile_mgr.embedding.vectors import scale_rows
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors
from llamafile_mgr.engines.replies import error_text, says_too_long
from llamafile_mgr.errors import EngineError, EngineLostError, Error, InputTooLongError
from llamafile_mgr.planner.plans import Plan

__all__ = ["Budget", "GroupRunner", "ItemResult"]

_LOADING = re.compile(r"loading model", re.I)
#: So often an engine may die of one text that stands alone before the text is blamed.
_DEATHS_ALONE = 3
#: Before an engine that is dead or loads, and is still taken for ready, is asked again.
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one text: a unit vector, or an error.

    ``tokens``: its own as the engine counted them, None where it only told a sum; ``share``: its part of
    that sum by length.
    """

    vector: NDArray[np.float32] | None = None
    error: Error | None = None
    tokens: int | None = None
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Budget:
    """Until when, on the monotonic clock, an engine may become ready and the whole may take."""

    ready_by: float
    end: float


class GroupRunner:
    """Runs groups on a pool. ``tokens`` of a group are the caller's estimates, for sharing out sums.

    ``wait_seconds``: so long a text is held when engines are lost, however old its call is by then.
    ``observe`` is told the seconds of every request; ``requests`` counts them.
    """

    def __init__(
        self, pool: EnginePool, *, wait_seconds: float, observe: Callable[[float], None] = lambda _: None
    ) -> None:
        self._wait_seconds = wait_seconds
        self._observe = observe
        self._pool = pool
        self._suspects = asyncio.Lock()
        self._dead: weakref.WeakSet[EngineConnection] = weakref.WeakSet()
        self._last_seen = -math.inf
        self.requests = 0

    async def run(self, texts: Sequence[str], tokens: Sequence[int], budget: Budget) -> list[ItemResult]:
        """Return one result per text; errors are results here and never raised."""
        try:
            engine, reply = await self._ask(texts, sum(tokens), budget)
        except EngineLostError:
            return await self._run_suspects(texts, tokens, budget)
        except Error as error:
            return [ItemResult(error=error)] * len(texts)
        try:
            answer = _read(engine.plan, reply, len(texts))
        except Error as error:
            if len(texts) == 1:
                if reply.status == 200:
                    engine.suspect()
                return [ItemResult(error=error)]
            half = len(texts) // 2
            first = await self.run(texts[:half], tokens[:half], budget)
            return first + await self.run(texts[half:], tokens[half:], budget)
        return await self._check(texts, tokens, engine, answer, budget)

    async def _check(
        self,
        texts: Sequence[str],
        tokens: Sequence[int],
        engine: Replica,
        answer: EngineVectors,
        budget: Budget,
    ) -> list[ItemResult]:
        """Turn rows into results; a row that is no vector is asked for once more, alone.

        When it is none again, either the text is to blame or the engine, which then has to prove itself.
        """
        units, bad = scale_rows(answer.vectors)
        results = _share_out(units, bad.tolist(), answer.prompt_tokens, tokens)
        for index in np.flatnonzero(bad).tolist():
            if len(texts) == 1:
                engine.suspect()
                what = "numbers that are not finite" if bad[index] == 2 else "a zero vector"
                results[index] = ItemResult(error=EngineError(f"the engine gave {what}"))
            else:
                results[index] = (await self.run([texts[index]], [tokens[index]], budget))[0]
        return results

    async def _run_suspects(
        self, texts: Sequence[str], tokens: Sequence[int], budget: Budget
    ) -> list[ItemResult]:
        """Send each text alone, and no two suspects at once, after an engine died of a group with them."""
        results: list[ItemResult] = []
        for text, count in zip(texts, tokens, strict=True):
            async with self._suspects:
                results.append(await self._run_suspect(text, count, budget))
        return results

    async def _run_suspect(self, text: str, tokens: int, budget: Budget) -> ItemResult:
        for _ in range(_DEATHS_ALONE):
            try:
                engine, reply = await self._ask([text], tokens, budget)
                answer = _read(engine.plan, reply, 1)
                return (await self._check([text], [tokens], engine, answer, budget))[0]
            except EngineLostError as error:  # an engine's death outweighs a try
                lost = error
            except Error as error:
                return ItemResult(error=error)
        return ItemResult(
            error=EngineError(
                "engines died while they computed this text", cause=lost.message, hint="leave the text out"
            )
        )

    async def _ask(self, texts: Sequence[str], tokens: int, budget: Budget) -> tuple[Replica, EngineReply]:
        """Send one request; return the engine that answered, and its reply.

        Raises:
            EngineLostError: the engine died of itself while it had the request. After one that was ended by
                somebody, or was dead before and its own task has yet to see it, the request is sent again.
            NotReadyError: no engine became ready in time.
            EngineError: the budget is spent.
        """
        while True:
            now = time.monotonic()
            if now >= budget.end:
                raise EngineError("the text was not computed within the call's deadline")
            ready_by = max(budget.ready_by, self._last_seen + self._wait_seconds)
            wait_seconds = max(0.001, min(ready_by, budget.end) - now)
            async with self._pool.lease(wait_seconds, tokens) as engine:
                client = engine.client
                request = family_rules(engine.plan.family).embed(texts)
                reply, lost = await self._ask_engine(client, request, budget)
            if lost is not None and not await engine.was_ended(client):
                raise lost
            if reply is not None and (reply.status != 503 or not _LOADING.search(error_text(reply))):
                return engine, reply
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _ask_engine(
        self, client: EngineConnection | None, request: EngineRequest, budget: Budget
    ) -> tuple[EngineReply | None, EngineLostError | None]:
        """Return the reply, or how the engine was lost; neither when it was dead already."""
        if client is None:
            return None, None
        was_dead = client in self._dead
        self.requests += 1
        began = time.monotonic()
        try:
            return await client.request(request, deadline_seconds=max(0.001, budget.end - began)), None
        except EngineLostError as error:
            self._dead.add(client)
            return None, None if was_dead else error
        finally:
            ended = time.monotonic()
            self._observe(ended - began)
            if not was_dead:
                self._last_seen = ended


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


def _share_out(
    units: NDArray[np.float32], bad: Sequence[int], total: int | None, tokens: Sequence[int]
) -> list[ItemResult]:
    """Return the results of the good rows, and empty ones in the place of the others.

    ``total``: the engine's own count of all tokens, which is shared out by the estimates ``tokens``.
    """
    estimated = max(1, sum(tokens))
    alone = total if len(tokens) == 1 else None
    return [
        ItemResult() if wrong else ItemResult(row, None, alone, (total or 0) * count / estimated)
        for row, count, wrong in zip(units, tokens, bad, strict=True)
    ]
