"""What the planner is asked about: a model on the disk, its file and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llamafile_mgr.catalog import Model, Role
from llamafile_mgr.llamafile import FileFacts, GgufFacts

#: Used where neither the file nor the catalog tells.
_DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class SideFile:
    """A GGUF that settings name beside a model, by ``name``. ``size``: bytes. ``digest``: of its tensors, as
    weights are told apart."""

    name: str
    path: Path
    gguf: GgufFacts
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class SideFiles:
    """The files that settings name beside a model; ``lora`` in the order of the settings."""

    mmproj: SideFile | None = None
    lora: tuple[SideFile, ...] = ()
    draft: SideFile | None = None
    chat_template: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return all of them."""
        template = () if self.chat_template is None else (self.chat_template,)
        return (*(file.path for file in self._ggufs), *template)

    @property
    def names(self) -> tuple[str, ...]:
        """Return what settings call those that are GGUFs."""
        return tuple(file.name for file in self._ggufs)

    @property
    def _ggufs(self) -> tuple[SideFile, ...]:
        return tuple(file for file in (self.mmproj, *self.lora, self.draft) if file is not None)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model to run. ``digest``: sha256 of its file where the store knows it; ``model``: its entry.

    ``beside``: the files that its settings name. ``stretch``: its texts may be so many times as long as those
    that it was trained for.
    """

    name: str
    role: Role
    path: Path
    facts: FileFacts
    model: Model | None = None
    digest: str | None = None
    beside: SideFiles = field(default_factory=SideFiles)
    stretch: float = 1.0

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
        return int((limit if told is None else min(limit, told)) * self.stretch)
