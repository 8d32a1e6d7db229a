"""Is an engine right? Real requests with known answers, before any caller's request is sent.

The first vector of an engine is thrown away: the server of May 2024 gets it wrong (cosine 0.865 measured).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.catalog import Role, load_golden
from llamafile_mgr.embedding.space import fingerprint_space
from llamafile_mgr.embedding.vectors import cosines, normalise
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.messages import json_request
from llamafile_mgr.engines.replies import read_json
from llamafile_mgr.engines.reranking import read_scores, rerank_request
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineStartError
from llamafile_mgr.files import store_errors, write_atomically
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.engine_start import EngineChecks

#: Against vectors of the unquantised model: F16 measured at 0.999999 and more, Q8_0 at 0.998 and more.
GOLDEN_COSINE = 0.999
_QUANTISED_COSINE = 0.99
#: A text alone and among others differs by rounding only.
_BATCH_COSINE = 0.9999
_UNIT_TOLERANCE = 1e-2
_REQUEST_SECONDS = 600.0
#: Two texts that mean the same and one that does not, for models without golden vectors.
PROBE_TEXTS = (
    "How do I reset my password?",
    "Steps to recover a forgotten account password.",
    "Bananas are rich in potassium.",
)
#: To the first of them.
_ANSWER = "To reset your password, open the settings and choose a new one."
#: A pair alone and among others differs by rounding only; the share is of the distance that it must keep.
_SCORE_TOLERANCE = 0.05


def make_checks(plan: Plan, baselines: Baselines, *, records: bool = True) -> EngineChecks:
    """Return what an engine of this plan must pass before it takes calls, and now and then afterwards.

    ``records``: what the first engine answers becomes known; never so for one that is not ours.
    """
    if plan.role is Role.EMBED:
        return EmbeddingChecks(plan, baselines, records)
    return RerankChecks() if plan.role is Role.RERANK else GenerationChecks()


def golden_limit(quantisation: str | None) -> float:
    """Return the least cosine with golden vectors for weights of this type, None for unquantised ones."""
    return GOLDEN_COSINE if quantisation in (None, "F16", "F32", "BF16") else _QUANTISED_COSINE


class Baselines:
    """What engines answered when models were first started here, for models without golden vectors.

    A later start whose vectors differ, because the engine, a driver or the file changed, does not become
    ready unnoticed. One small JSON file per vector space in a directory; blocks on the disk.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, space: str) -> NDArray[np.float32] | None:
        """Return the vectors recorded for a vector space, None when there are none that can be read."""
        try:
            rows = json.loads(self._path(space).read_text(encoding="ascii"))
            vectors = np.array(rows, dtype=np.float32)
        except (OSError, ValueError):
            return None
        return vectors if vectors.ndim == 2 and vectors.size else None

    def record(self, space: str, vectors: NDArray[np.float32]) -> None:
        """Write the vectors of a vector space.

        Raises:
            StoreError: they cannot be written.
        """
        ensure_private_dir(self._directory)
        path = self._path(space)
        with store_errors(path):
            write_atomically(path, json.dumps(vectors.astype(float).tolist()).encode("ascii"))

    def _path(self, space: str) -> Path:
        return self._directory / f"{space}.json"


class EmbeddingChecks:
    """Checks of an embedding engine: shape, agreement alone and in a batch, and known vectors.

    Known are the catalog's golden vectors or, for a model without any, those of its first start here.
    """

    def __init__(self, plan: Plan, baselines: Baselines, records: bool) -> None:
        self._plan = plan
        self._baselines = baselines
        self._records = records
        self._golden = load_golden(plan.model) if plan.model is not None else ()
        self._texts = [entry.text for entry in self._golden] or list(PROBE_TEXTS)
        self._first: NDArray[np.float32] | None = None

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        """Warm up, then compare. Raises EngineError."""
        texts = self._texts
        await _embed(client, rules, [texts[0]])
        alone = np.concatenate([await _embed(client, rules, [text]) for text in texts[:3]])
        together = np.concatenate(
            [
                await _embed(client, rules, texts[at : at + rules.max_texts])
                for at in range(0, len(texts), rules.max_texts)
            ]
        )
        _check_shape(self._plan, together)
        alone, together = normalise(alone), normalise(together)
        _require(cosines(alone, together[: len(alone)]), _BATCH_COSINE, "alone and among other texts")
        if self._golden:
            self._compare_golden(together)
        else:
            _check_meaning(together)
            await asyncio.to_thread(self._compare_baseline, together)
        self._first = together[:1]

    async def check_alive(self, client: EngineClient, rules: EngineFamily) -> None:
        """Embed one text and compare it with what the engine gave at its start. Raises EngineError."""
        now = normalise(await _embed(client, rules, self._texts[:1]))
        if self._first is not None:
            _require(cosines(now, self._first), GOLDEN_COSINE, "with its own vector at the start")

    def _compare_golden(self, vectors: NDArray[np.float32]) -> None:
        known = normalise(np.array([entry.vector for entry in self._golden], dtype=np.float32))
        limit = golden_limit(self._plan.quantisation)
        _require(cosines(vectors, known), limit, "with the model's known vectors")

    def _compare_baseline(self, vectors: NDArray[np.float32]) -> None:
        space = fingerprint_space(self._plan)
        known = self._baselines.load(space)
        if known is None and not self._records:
            raise EngineStartError(
                f"there are no known vectors of {self._plan.name} yet to compare its own with",
                hint="let one engine start here once, with replicas = 1",
            )
        if known is None or known.shape != vectors.shape:
            if not self._records:
                raise EngineStartError("its vectors have another shape than those of the first start here")
            self._baselines.record(space, vectors)
        else:
            _require(cosines(vectors, known), GOLDEN_COSINE, "with the vectors of its first start here")


class GenerationChecks:
    """Checks of a generation engine: one token comes back."""

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        """Generate one token. Raises EngineError."""
        request = json_request("/completion", {"prompt": "Hello", "n_predict": 1})
        body = read_json(await client.request(request, deadline_seconds=_REQUEST_SECONDS))
        if not isinstance(body, dict) or "content" not in body:
            raise EngineError("the engine's completion has no content")

    check_alive = check_ready


class RerankChecks:
    """Checks of a reranking engine."""

    def __init__(self) -> None:
        self._right: float | None = None
        self._distance = 0.0

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        """Score an answer and something else, alone and together. Raises EngineError."""
        right, wrong = await _score(client, _ANSWER, PROBE_TEXTS[2])
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
        if self._right is not None and abs(now - self._right) > _SCORE_TOLERANCE * self._distance:
            raise EngineStartError(
                "its scores are wrong", cause=f"{now:.3f} for a pair that had {self._right:.3f} at the start"
            )


async def _embed(client: EngineClient, rules: EngineFamily, texts: Sequence[str]) -> NDArray[np.float32]:
    reply = await client.request(rules.embed(texts), deadline_seconds=_REQUEST_SECONDS)
    return rules.read_vectors(reply, len(texts)).vectors


async def _score(client: EngineClient, *documents: str) -> list[float]:
    reply = await client.request(rerank_request(PROBE_TEXTS[0], documents), deadline_seconds=_REQUEST_SECONDS)
    return read_scores(reply, len(documents))


def _check_shape(plan: Plan, vectors: NDArray[np.float32]) -> None:
    width = vectors.shape[1]
    if plan.dimensions is not None and width != plan.dimensions:
        raise EngineStartError(f"its vectors have {width} dimensions where {plan.name} has {plan.dimensions}")
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.all(np.abs(lengths - 1.0) < _UNIT_TOLERANCE):
        raise EngineStartError(f"its vectors are not of unit length but {lengths.min():.3g} and more")


def _require(values: NDArray[np.float64], limit: float, between: str) -> None:
    worst = int(np.argmin(values))
    if not values[worst] >= limit:
        raise EngineStartError(
            "its vectors are wrong",
            cause=f"cosine {values[worst]:.4f} {between}, at text {worst}, where {limit} is the least",
        )


def _check_meaning(vectors: NDArray[np.float32]) -> None:
    near, far = cosines(vectors[[0, 0]], vectors[[1, 2]])
    if near <= far:
        raise EngineStartError(
            "its vectors are wrong",
            cause=f"texts that mean the same are no nearer ({near:.3f}) than unrelated ones ({far:.3f})",
        )
