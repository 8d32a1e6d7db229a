"""Golden vectors: texts with the vectors that a right engine gives for them.

Those of all-MiniLM-L6-v2 were computed by sentence-transformers (F32, normalised) for ten texts, among
them an empty one, emoji and one of 300 tokens.
"""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass

from llamafile_mgr.catalog.catalog_entries import Model


@dataclass(frozen=True, slots=True)
class GoldenVector:
    """One text and its unit-length vector."""

    text: str
    vector: tuple[float, ...]


def load_golden(model: Model) -> tuple[GoldenVector, ...]:
    """Return the golden vectors of ``model``, none where the catalog knows none."""
    if model.golden is None:
        return ()
    resource = importlib.resources.files(__package__) / "golden" / model.golden
    entries = json.loads(resource.read_text(encoding="utf-8"))
    return tuple(GoldenVector(text=entry["text"], vector=tuple(entry["vector"])) for entry in entries)
