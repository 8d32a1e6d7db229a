"""What an embedding call means: groups of texts to the pool, checked vectors back, in order."""

from __future__ import annotations

import asyncio
import re

import numpy as np

from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult
from llamafile_mgr.embedding.space import fingerprint_space
from llamafile_mgr.embedding.vectors import normalise
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors
from llamafile_mgr.engines.replies import error_text
from llamafile_mgr.errors import InputTooLongError
from llamafile_mgr.supervisor.pool import Pool

__all__ = ["Embedder"]

#: Texts per engine request: enough to fill its slots, few enough that one bad text is found quickly.
_GROUP = 32
#: Requests of one call that are under way at once; the engine's slots share them.
_PARALLEL = 2
_TOO_LONG = re.compile(
    r"too large to process|exceeds? the (?:available )?context|larger than the max context", re.I
)


class Embedder:
    """Embeds for one pool."""

    def __init__(self, pool: Pool, *, wait_seconds: float, deadline_seconds: float = 600.0) -> None:
        self.pool = pool
        self.vector_space = fingerprint_space(pool.plan)
        self._rules = family_rules(pool.plan.family)
        self._wait_seconds = wait_seconds
        self._deadline_seconds = deadline_seconds

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Return the vectors of all texts.

        Raises:
            InputTooLongError: a text is longer than the model takes; the message names its index.
            NotReadyError: no engine became ready in time.
            EngineError: the engine answered nonsense or not in time.
        """
        size = min(_GROUP, self._rules.max_texts)
        groups = [range(at, min(at + size, len(request.texts))) for at in range(0, len(request.texts), size)]
        gate = asyncio.Semaphore(_PARALLEL)

        async def embed_group(group: range) -> EngineVectors:
            async with gate:
                return await self._embed_group(request, group)

        parts = await _gather([asyncio.ensure_future(embed_group(group)) for group in groups])
        tokens = [part.prompt_tokens for part in parts]
        return EmbedResult(
            vectors=normalise(np.concatenate([part.vectors for part in parts])),
            prompt_tokens=sum(count for count in tokens if count is not None),
            vector_space=self.vector_space,
        )

    async def _embed_group(self, request: EmbedRequest, group: range) -> EngineVectors:
        texts = request.texts[group.start : group.stop]
        reply = await self._call(self._rules.embed(texts))
        if reply.status != 200 and _TOO_LONG.search(error_text(reply)):
            raise await self._find_too_long(request, group, error_text(reply))
        return self._rules.read_vectors(reply, len(texts))

    async def _find_too_long(self, request: EmbedRequest, group: range, said: str) -> InputTooLongError:
        """Return the error that names the first over-long text of a group that the engine refused."""
        name, limit = self.pool.plan.name, self.pool.plan.max_tokens
        for index in group:
            reply = await self._call(self._rules.tokenize(request.texts[index]))
            count = len(self._rules.read_tokens(reply))
            if limit is not None and count > limit:
                return InputTooLongError(
                    f"input {index} has {count} tokens, more than the {limit} that {name} takes",
                    hint="split the text into shorter pieces",
                )
        return InputTooLongError(f"the engine refused a text as too long: {said}")

    async def _call(self, request: EngineRequest) -> EngineReply:
        return await self.pool.call(
            request, wait_seconds=self._wait_seconds, deadline_seconds=self._deadline_seconds
        )


async def _gather(tasks: list[asyncio.Future[EngineVectors]]) -> list[EngineVectors]:
    """Await all; when one fails, or we are cancelled, cancel the others and wait for their end."""
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
