"""The ways to run an embedding model on a machine, with a generation model beside it or without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llamafile_mgr.catalog import Artifact, Model
from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.budget import Pool, Pools, fit
from llamafile_mgr.planner.estimates import Need, flops_per_token, memory_need
from llamafile_mgr.planner.verdicts import Use

__all__ = [
    "CORE_FLOPS",
    "LEAST_TOKENS_PER_SECOND",
    "Option",
    "Partner",
    "embedding_option",
    "gigabytes",
    "index_seconds",
    "tokens_per_second",
    "usable_partners",
]

#: What one core does of an embedding model's arithmetic, served: all-MiniLM-L6-v2 on two AVX2 cores took
#: 2,500 to 3,000 tokens a second.
CORE_FLOPS = 29e9
#: Slowest generation on the processor that is still of use: about reading speed.
LEAST_TOKENS_PER_SECOND = 4.0


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run an embedding model, with the generation model that fits beside it."""

    model: Model
    artifact: Artifact
    need: Need
    place: Pool
    seconds: float | None
    partner: Partner | None


@dataclass(frozen=True, slots=True)
class Partner:
    """A generation model, its file and where it lies."""

    model: Model
    artifact: Artifact
    need: Need
    place: Pool


def usable_partners(writers: Iterable[Model], use: Use) -> Iterable[tuple[Model, Artifact, Need]]:
    """Yield the generation models that the licence allows, with what each of their files takes."""
    for model in writers:
        if use.commercial and not model.commercial:
            continue
        for artifact in model.artifacts:
            need = memory_need(model, artifact)
            if need is not None:
                yield model, artifact, need


def embedding_option(
    model: Model,
    use: Use,
    machine: Machine,
    pools: Pools,
    partners: Sequence[tuple[Model, Artifact, Need]],
) -> tuple[Option | None, str]:
    """Return the best way to run this model, or why there is none.

    Of its files the recommended one is taken if it fits; when a generation model has to fit beside it, the
    file that leaves room for the largest one.
    """
    if use.commercial and not model.commercial:
        return None, f"its licence, {model.licence}, does not allow commercial use"
    sized = [(a, need) for a in model.artifacts if (need := memory_need(model, a)) is not None]
    if not sized:
        return None, "the catalog does not know the size of its files"
    found: list[Option] = []
    for artifact, need in sized:
        option = _place(model, artifact, need, use, machine, pools, partners)
        if option is not None:
            found.append(option)
    if found:
        return max(found, key=lambda o: o.partner.need.weights if o.partner else 0), ""
    smallest = min(need.total for _, need in sized)
    beside = ""
    if use.with_generation and partners:
        beside = f" beside the smallest generation model ({gigabytes(min(n.total for _, _, n in partners))})"
    return None, f"its smallest file needs {gigabytes(smallest)}{beside}; there are {pools.describe()}"


def _place(
    model: Model,
    artifact: Artifact,
    need: Need,
    use: Use,
    machine: Machine,
    pools: Pools,
    partners: Sequence[tuple[Model, Artifact, Need]],
) -> Option | None:
    def seconds(place: Pool) -> float | None:
        return None if place.accelerated else index_seconds(model, use, machine)

    if not use.with_generation:
        places = fit([need.total], pools)
        return None if places is None else Option(model, artifact, need, places[0], seconds(places[0]), None)
    slow: Option | None = None
    for partner, file, other in partners:
        places = fit([need.total, other.total], pools)
        if places is None:
            continue
        option = Option(
            model, artifact, need, places[0], seconds(places[0]), Partner(partner, file, other, places[1])
        )
        if places[1].accelerated or tokens_per_second(partner, machine) >= LEAST_TOKENS_PER_SECOND:
            return option
        slow = option  # the last, smallest one stays, for machines on which all are slow
    return slow


def index_seconds(model: Model, use: Use, machine: Machine) -> float | None:
    """Return about how long the processor takes for the whole collection."""
    flops = flops_per_token(model)
    if flops is None:
        return None
    return use.corpus_size * use.doc_length.tokens * flops / (CORE_FLOPS * machine.cpu.usable_cores)


def tokens_per_second(model: Model, machine: Machine) -> float:
    """Return about how fast the processor generates."""
    flops = flops_per_token(model)
    return float("inf") if flops is None else CORE_FLOPS * machine.cpu.usable_cores / flops


def gigabytes(count: int) -> str:
    """Return a size in decimal gigabytes for a sentence."""
    return f"{count / 1e9:.2g} GB" if count < 10e9 else f"{count / 1e9:.1f} GB"
