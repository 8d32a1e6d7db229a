"""The ways to run an embedding model on a machine, with a generation model beside it or without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llamafile_mgr.catalog import Artifact, Model
from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.prospects import Prospect, Site
from llamafile_mgr.planner.verdicts import Use

#: What one core does of an embedding model's arithmetic, served: all-MiniLM-L6-v2 on two AVX2 cores took
#: 2,500 to 3,000 tokens a second.
_CORE_FLOPS = 29e9
#: Slowest generation on the processor that is still of use: about reading speed.
LEAST_TOKENS_PER_SECOND = 4.0


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run an embedding model. ``seconds``: about how long the collection takes, None on a GPU.
    ``partner``: the generation model that fits beside it."""

    embedder: Prospect
    seconds: float | None
    partner: Prospect | None

    @property
    def limit(self) -> int:
        """Return the longest text that the engine would take."""
        return self.embedder.plan.max_tokens or 0


def usable_partners(writers: Iterable[Model], use: Use, site: Site) -> list[tuple[Model, Artifact]]:
    """Return the files of generation models that the licence allows, the largest first."""
    sized = [
        (facts.size, model, artifact)
        for model in writers
        if model.commercial or not use.commercial
        for artifact in model.artifacts
        if (facts := site.facts(model, artifact)) is not None
    ]
    return [(model, artifact) for _, model, artifact in sorted(sized, key=lambda each: -each[0])]


def embedding_option(
    model: Model, use: Use, site: Site, partners: Sequence[tuple[Model, Artifact]]
) -> tuple[Option | None, str]:
    """Return the best way to run this model, or why there is none.

    Of its files the recommended one is taken if it fits; when a generation model has to fit beside it, the
    file that leaves room for the largest one.
    """
    if use.commercial and not model.commercial:
        return None, f"its licence, {model.licence}, does not allow commercial use"
    sized = {a: facts.size for a in model.artifacts if (facts := site.facts(model, a)) is not None}
    if not sized:
        return None, "the catalog does not know the size of its files"
    if use.with_generation and not partners:
        return None, "the catalog has no generation model that could stand beside it"
    found = [option for artifact in sized if (option := _place(model, artifact, use, site, partners))]
    if found:
        return max(found, key=lambda option: _size(option.partner)), ""
    smallest = min(sized, key=lambda artifact: sized[artifact])
    beside = partners[-1:] if use.with_generation else ()
    reason = site.plan((model, smallest), *beside)
    beside_it = f" beside the smallest generation model, {beside[0][0].id}," if beside else ""
    return None, f"its smallest file, {smallest.name},{beside_it} does not fit: {reason}"


def _size(partner: Prospect | None) -> int:
    memory = partner.plan.memory if partner is not None else None
    return memory.weights if memory is not None else 0


def _place(
    model: Model, artifact: Artifact, use: Use, site: Site, partners: Sequence[tuple[Model, Artifact]]
) -> Option | None:
    if not use.with_generation:
        planned = site.plan((model, artifact))
        return None if isinstance(planned, str) else _option(planned, use, site.machine)
    slow: Option | None = None
    for partner in partners:
        planned = site.plan((model, artifact), partner)
        if isinstance(planned, str):
            continue
        option = _option(planned, use, site.machine)
        if is_quick(planned[1], site.machine):
            return option
        slow = option  # the last, smallest one stays, for machines on which all are slow
    return slow


def _option(planned: tuple[Prospect, ...], use: Use, machine: Machine) -> Option:
    embedder, *others = planned
    seconds = None if embedder.plan.accelerated else index_seconds(embedder.model, use, machine)
    return Option(embedder, seconds, others[0] if others else None)


def is_quick(writer: Prospect, machine: Machine) -> bool:
    """Tell whether it generates at least as fast as people read."""
    return writer.plan.accelerated or tokens_per_second(writer.model, machine) >= LEAST_TOKENS_PER_SECOND


def flops_per_token(model: Model) -> float | None:
    """Return about how many operations one token costs: two for every parameter that computes.

    All parameters of mixture models count, though only some are used for a token. A text looks the rows of
    an encoder's token table up, and does not compute with them.
    """
    shape = model.shape
    if shape is None:
        return None
    looked_up = (
        (shape.vocab_size + shape.context_length) * shape.embedding_length if shape.causal is False else 0
    )
    return 2.0 * (shape.parameters - looked_up)


def index_seconds(model: Model, use: Use, machine: Machine) -> float | None:
    """Return about how long the processor takes for the whole collection."""
    flops = flops_per_token(model)
    if flops is None:
        return None
    return use.corpus_size * use.doc_length.tokens * flops / (_CORE_FLOPS * machine.cpu.usable_cores)


def tokens_per_second(model: Model, machine: Machine) -> float:
    """Return about how fast the processor generates."""
    flops = flops_per_token(model)
    return float("inf") if flops is None else _CORE_FLOPS * machine.cpu.usable_cores / flops
