"""What the planner is asked about: a model on the disk, its file and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.catalog import Model, Role
from llamafile_mgr.llamafile import FileFacts, GgufFacts

__all__ = ["ModelSpec"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model to run. ``digest``: sha256 of its file where the store knows it; ``model``: its entry."""

    name: str
    role: Role
    path: Path
    facts: FileFacts
    model: Model | None = None
    digest: str | None = None

    @property
    def gguf(self) -> GgufFacts | None:
        """Return what the header of the weights says, None of a file without weights."""
        weights = self.facts.model
        return weights.gguf if weights is not None else None
