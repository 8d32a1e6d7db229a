"""Is an engine right? Real requests with known answers, before any caller's request is sent.

The first vector of an engine is thrown away: the server of May 2024 gets it wrong (cosine 0.865 measured).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.catalog import GoldenVector, Role, load_golden
from llamafile_mgr.embedding.vectors import cosines, normalise
from llamafile_mgr.engines.families import EngineFamily
from llamafile_mgr.engines.messages import json_request
from llamafile_mgr.engines.replies import read_json
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineStartError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.engine import ReadinessCheck

__all__ = ["GOLDEN_COSINE", "readiness_check"]

#: Against vectors of the unquantised model: F16 measured at 0.999999 and more, Q8_0 at 0.998 and more.
GOLDEN_COSINE = 0.999
_QUANTISED_COSINE = 0.99
#: A text alone and among others differs by rounding only.
_BATCH_COSINE = 0.9999
_UNIT_TOLERANCE = 1e-2
_REQUEST_SECONDS = 600.0
#: Two texts that mean the same and one that does not, for models without golden vectors.
_PROBES = (
    "How do I reset my password?",
    "Steps to recover a forgotten account password.",
    "Bananas are rich in potassium.",
)


def readiness_check(plan: Plan) -> ReadinessCheck:
    """Return the check that an engine of this plan must pass before it takes calls."""
    if plan.role is Role.EMBED:
        golden = load_golden(plan.model) if plan.model is not None else ()
        return lambda client, rules: _check_embedding(plan, golden, client, rules)
    return lambda client, rules: _check_generation(client)


async def _check_embedding(
    plan: Plan, golden: Sequence[GoldenVector], client: EngineClient, rules: EngineFamily
) -> None:
    texts = [entry.text for entry in golden] or list(_PROBES)
    await _embed(client, rules, [texts[0]])
    alone = np.concatenate([await _embed(client, rules, [text]) for text in texts[:3]])
    together = np.concatenate(
        [
            await _embed(client, rules, texts[at : at + rules.max_texts])
            for at in range(0, len(texts), rules.max_texts)
        ]
    )
    _check_shape(plan, together)
    alone, together = normalise(alone), normalise(together)
    _require(cosines(alone, together[: len(alone)]), _BATCH_COSINE, "alone and among other texts")
    if golden:
        known = normalise(np.array([entry.vector for entry in golden], dtype=np.float32))
        quantised = plan.quantisation not in (None, "F16", "F32", "BF16")
        limit = _QUANTISED_COSINE if quantised else GOLDEN_COSINE
        _require(cosines(together, known), limit, "and the model's known vectors")
    else:
        near, far = cosines(together[[0, 0]], together[[1, 2]])
        if near <= far:
            raise EngineStartError(
                "its vectors are wrong",
                cause=f"texts that mean the same are no nearer ({near:.3f}) than unrelated ones ({far:.3f})",
            )


async def _embed(client: EngineClient, rules: EngineFamily, texts: Sequence[str]) -> NDArray[np.float32]:
    reply = await client.request(rules.embed(texts), deadline_seconds=_REQUEST_SECONDS)
    return rules.read_vectors(reply, len(texts)).vectors


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
            cause=f"cosine {values[worst]:.4f} {between} at text {worst}, where {limit} is the least",
        )


async def _check_generation(client: EngineClient) -> None:
    reply = await client.request(
        json_request("/completion", {"prompt": "Hello", "n_predict": 1}), deadline_seconds=_REQUEST_SECONDS
    )
    body = read_json(reply)
    if not isinstance(body, dict) or "content" not in body:
        raise EngineError("the engine's first completion has no content")
