"""The vector space: a fingerprint of everything that shapes a vector.

Vectors of different fingerprints must never share an index. What shapes a vector: the weights, how token
vectors are pooled, the normalisation, the prompts, the engine family, and settings such as adapters and
rotary positions; and that vectors are accepted which are not what they should be.
"""

from __future__ import annotations

import hashlib
import json

from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.planner.plans import Plan


def fingerprint_space(plan: Plan) -> str:
    """Return 16 hex digits that change when vectors of this plan would."""
    model = plan.model
    pooling = plan.settings.pooling
    facts: dict[str, object] = {
        "weights": plan.weights_digest,
        "pooling": pooling.value if pooling else None,
        "normalise": "l2",
        "query_prompt": model.query_prompt if model else None,
        "document_prompt": model.document_prompt if model else None,
        "append_eos": model.append_eos if model else False,
        "family": family_rules(plan.family).vector_space,
    }
    # What is not asked for is left out, so that an index made before a setting existed still fits.
    if asked := {**plan.features.vector_facts(), **_given("arguments", plan.vector_arguments)}:
        facts["settings"] = asked
    accepted = plan.accepted
    if accepted.known_bad is not None or accepted.least_cosine is not None:
        facts["accepted"] = [accepted.known_bad is not None, accepted.least_cosine]
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def _given(name: str, words: tuple[str, ...]) -> dict[str, object]:
    return {name: list(words)} if words else {}
