"""What the planner is asked about: a model on the disk, its file and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.catalog import Model, Role
from llamafile_mgr.llamafile import FileFacts, GgufFacts

__all__ = ["ModelSpec"]

#: Used where neither the file nor the catalog tells.
_DEFAULT_CONTEXT = 4096


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

    @property
    def dimensions(self) -> int | None:
        """Return the length of its vectors, None where nothing tells or nothing is embedded."""
        known = self.model.dimensions if self.model is not None else None
        width = self.gguf.embedding_length if self.gguf is not None else None
        return (known or width) if self.role is Role.EMBED else None

    @property
    def text_limit(self) -> int:
        """Return the longest text that the model itself takes, in tokens."""
        limit = (self.gguf.context_length if self.gguf is not None else None) or _DEFAULT_CONTEXT
        told = self.model.max_tokens if self.model is not None else None
        return limit if told is None else min(limit, told)
