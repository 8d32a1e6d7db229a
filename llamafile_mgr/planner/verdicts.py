"""The question and the answer of a recommendation, as values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum

from llamafile_mgr.catalog import Role
from llamafile_mgr.planner.budget import MemoryBudget


class DocLength(StrEnum):
    """How long a document is: a sentence, a paragraph, or pages."""

    SHORT = "short"
    PARAGRAPH = "paragraph"
    LONG = "long"

    @property
    def tokens(self) -> int:
        """Return the tokens that one document is reckoned to have."""
        return {DocLength.SHORT: 32, DocLength.PARAGRAPH: 150, DocLength.LONG: 1500}[self]


@dataclass(frozen=True, slots=True)
class Use:
    """What the models are for. ``max_memory``: bytes that both together may take, ``None`` for what is free.

    ``corpus_size``: documents to index.
    """

    commercial: bool = False
    max_memory: int | None = None
    doc_length: DocLength = DocLength.PARAGRAPH
    corpus_size: int = 10_000
    with_generation: bool = False


class ModelOutcome(StrEnum):
    """What became of a model. ``POSSIBLE``: it would work here, another is better."""

    CHOSEN = "chosen"
    POSSIBLE = "possible"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """One model and the reasons. ``memory``: bytes, as plan predicts them. ``index_seconds``: about how
    long the collection takes, ``None`` on a GPU, where nothing was measured."""

    model: str
    role: Role
    outcome: ModelOutcome
    reasons: tuple[str, ...]
    artifact: str | None = None
    place: str | None = None
    memory: int | None = None
    mtr: float | None = None
    index_seconds: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the verdict as plain values for JSON."""
        plain = {"role": self.role.value, "outcome": self.outcome.value, "reasons": list(self.reasons)}
        return dataclasses.asdict(self) | plain


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The choice, every verdict, and what was assumed.

    ``embedding``, ``generation``: ``None`` when nothing fits or nothing was asked for.
    """

    use: Use
    budgets: tuple[MemoryBudget, ...]
    verdicts: tuple[ModelVerdict, ...]
    assumptions: tuple[str, ...]

    @property
    def embedding(self) -> ModelVerdict | None:
        """Return the chosen embedding model."""
        return self._chosen(Role.EMBED)

    @property
    def generation(self) -> ModelVerdict | None:
        """Return the chosen generation model."""
        return self._chosen(Role.GENERATE)

    @property
    def complete(self) -> bool:
        """Return whether everything that was asked for was found."""
        return self.embedding is not None and (self.generation is not None or not self.use.with_generation)

    def to_dict(self) -> dict[str, object]:
        """Return the recommendation as plain values for JSON."""
        return {
            "embedding": self.embedding.to_dict() if self.embedding else None,
            "generation": self.generation.to_dict() if self.generation else None,
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "memory": [dataclasses.asdict(budget) for budget in self.budgets],
            "use": dataclasses.asdict(self.use) | {"doc_length": self.use.doc_length.value},
            "assumptions": list(self.assumptions),
        }

    def _chosen(self, role: Role) -> ModelVerdict | None:
        found = (v for v in self.verdicts if v.role is role and v.outcome is ModelOutcome.CHOSEN)
        return next(found, None)
