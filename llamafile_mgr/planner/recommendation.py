"""Which embedding and generation model to run on this machine, and why not the others.

The reasoning is the post's: licence first; memory for both models at once; then whether the collection can
be indexed in a day; then the length of documents; and among what is left the best mean task rank. Pure
functions over machine, catalog and use.
"""

from __future__ import annotations

from collections.abc import Sequence

from llamafile_mgr.catalog import Artifact, ArtifactKind, Catalog, Model, Role
from llamafile_mgr.machine import Machine, System
from llamafile_mgr.planner.budget import Pools, fit, machine_pools
from llamafile_mgr.planner.estimates import context_tokens, memory_need
from llamafile_mgr.planner.options import (
    LEAST_TOKENS_PER_SECOND,
    Option,
    Partner,
    embedding_option,
    gigabytes,
    tokens_per_second,
    usable_partners,
)
from llamafile_mgr.planner.published import Published, load_published
from llamafile_mgr.planner.verdicts import DocLength, Outcome, Recommendation, Use, Verdict

__all__ = ["DocLength", "Outcome", "Recommendation", "Use", "Verdict", "recommend"]

#: Longest time that indexing may take before a smaller model is the better choice.
_INDEX_LIMIT_SECONDS = 24 * 3600.0
_WINDOWS_EXECUTABLE_LIMIT = 4 * 1024**3


def recommend(
    machine: Machine, catalog: Catalog, use: Use, published: Published | None = None
) -> Recommendation:
    """Return the models for this machine and this use, with a verdict on every model of the catalog.

    Raises:
        PlanError: nothing tells how much memory there is, and ``use`` does not say.
    """
    published = published or load_published()
    pools = machine_pools(machine, use.max_memory)
    embedders = [m for m in catalog.models.values() if m.role is Role.EMBED]
    embedders.sort(key=lambda m: _order(published.mtr_of(m.title)))
    writers = [m for m in catalog.models.values() if m.role is Role.GENERATE] if use.with_generation else []
    partners = sorted(usable_partners(writers, use), key=lambda pair: -pair[2].weights)

    verdicts: list[Verdict] = []
    options: list[Option] = []
    for model in embedders:
        option, reason = embedding_option(model, use, machine, pools, partners)
        if option is None:
            verdicts.append(_rejected(model, published, reason))
        else:
            options.append(option)
    best = _best(options, use)
    verdicts += [_embedding_verdict(option, best, use, published, machine, pools) for option in options]
    order = {Outcome.CHOSEN: 0, Outcome.POSSIBLE: 1, Outcome.REJECTED: 2}
    verdicts.sort(key=lambda v: (order[v.outcome], _order(v.mtr)))
    if use.with_generation:
        verdicts += _generation_verdicts(writers, best, use, machine, pools)
    return Recommendation(use, pools.pools, tuple(verdicts), _assumptions(use, machine, pools))


def _order(mtr: float | None) -> float:
    return float("inf") if mtr is None else mtr


def _too_slow(option: Option) -> bool:
    return option.seconds is not None and option.seconds > _INDEX_LIMIT_SECONDS


def _holds(option: Option, use: Use) -> bool:
    """Return whether a document goes into one embedding."""
    return context_tokens(option.model) >= use.doc_length.tokens


def _best(options: Sequence[Option], use: Use) -> Option | None:
    """Return the option that the post's reasoning leads to; ``options`` stand in order of rank."""
    quick = [option for option in options if not _too_slow(option)]
    if not quick:
        return min(options, key=lambda o: o.seconds or 0.0, default=None)
    return next((option for option in quick if _holds(option, use)), quick[0])


def _embedding_verdict(
    option: Option,
    best: Option | None,
    use: Use,
    published: Published,
    machine: Machine,
    pools: Pools,
) -> Verdict:
    chosen = option is best
    reasons = [_rank_reason(option.model, published)]
    reasons.append(_licence_reason(option.model))
    reasons.append(_memory_reason(option, pools))
    reasons.append(_length_reason(option, use))
    reasons.append(_time_reason(option, use, machine))
    reasons += _file_reasons(option.artifact, machine)
    if best is not None and not chosen:
        reasons.insert(0, _why_lost(option, best, use, published))
    return Verdict(
        model=option.model.id,
        role=Role.EMBED,
        outcome=Outcome.CHOSEN if chosen else Outcome.POSSIBLE,
        reasons=tuple(reasons),
        artifact=option.artifact.name,
        place=option.place.name,
        memory=option.need.total,
        mtr=published.mtr_of(option.model.title),
        index_seconds=option.seconds,
    )


def _why_lost(option: Option, best: Option, use: Use, published: Published) -> str:
    if _too_slow(option):
        other = f"runs on {best.place.name}" if best.place.accelerated else f"takes {_duration(best.seconds)}"
        return (
            f"indexing takes about {_duration(option.seconds)} here, more than a day; {best.model.id} {other}"
        )
    if _holds(best, use) and not _holds(option, use):
        limit = context_tokens(option.model)
        return f"documents have to be cut to {limit} tokens; {best.model.id} takes them whole"
    theirs = published.mtr_of(best.model.title)
    return f"{best.model.id} ranks higher" + (f" (mean task rank {theirs})" if theirs is not None else "")


def _rank_reason(model: Model, published: Published) -> str:
    mtr = published.mtr_of(model.title)
    if mtr is None:
        return "it is not among the post's ten best"
    return f"the post's {model.summary}: mean task rank {mtr} over 40 data sets"


def _licence_reason(model: Model) -> str:
    if model.commercial:
        return f"its licence, {model.licence}, allows commercial use"
    return f"its licence, {model.licence}, allows no commercial use; --commercial leaves it out"


def _memory_reason(option: Option, pools: Pools) -> str:
    text = (
        f"needs {gigabytes(option.need.total)} in {option.place.name}: {option.artifact.name} file "
        f"{gigabytes(option.need.weights)}, context and buffers {gigabytes(option.need.context)}"
    )
    if option.partner:
        text += f"; {option.partner.model.id} fits beside it"
    if option.model.memory_gb is not None:
        text += f" (the post's {option.model.memory_gb} GB are for fp32)"
    return f"{text}; there are {pools.describe()}"


def _length_reason(option: Option, use: Use) -> str:
    limit = context_tokens(option.model)
    trained = option.model.recommended_tokens
    if not _holds(option, use):
        return f"documents of about {use.doc_length.tokens} tokens are cut into pieces of at most {limit}"
    if trained is not None and trained < use.doc_length.tokens:
        return f"takes {limit} tokens, but was trained on texts of {trained}"
    return f"takes texts of {limit} tokens; a document has about {use.doc_length.tokens}"


def _time_reason(option: Option, use: Use, machine: Machine) -> str:
    count = f"{use.corpus_size:,} documents"
    if option.place.accelerated:
        return f"runs on {option.place.name}; how long {count} take there was not estimated: bench tells"
    if option.seconds is None:
        return f"how long {count} take is unknown"
    cores = machine.cpu.usable_cores
    return f"indexing {count} takes about {_duration(option.seconds)} on {cores} core{'s' * (cores > 1)}"


def _file_reasons(artifact: Artifact, machine: Machine) -> list[str]:
    size = artifact.size if artifact.size is not None else artifact.approximate_size
    if artifact.kind is ArtifactKind.WEIGHTS:
        return ["weights alone: it runs on a runtime, which has to be pulled too, or on the embedded engine"]
    if machine.system is System.WINDOWS and (size or 0) > _WINDOWS_EXECUTABLE_LIMIT:
        return ["Windows starts no program above 4 GB: a runtime has to be pulled too, and runs it with -m"]
    return []


def _rejected(model: Model, published: Published, reason: str) -> Verdict:
    return Verdict(model.id, model.role, Outcome.REJECTED, (reason,), mtr=published.mtr_of(model.title))


def _generation_verdicts(
    writers: Sequence[Model], best: Option | None, use: Use, machine: Machine, pools: Pools
) -> list[Verdict]:
    chosen = best.partner if best else None
    verdicts = [_generation_verdict(model, chosen, best, use, machine, pools) for model in writers]
    order = {Outcome.CHOSEN: 0, Outcome.POSSIBLE: 1, Outcome.REJECTED: 2}
    return sorted(verdicts, key=lambda v: (order[v.outcome], -(v.memory or 0)))


def _generation_verdict(
    model: Model, chosen: Partner | None, best: Option | None, use: Use, machine: Machine, pools: Pools
) -> Verdict:
    is_chosen = chosen is not None and model.id == chosen.model.id
    artifact = chosen.artifact if chosen is not None and is_chosen else model.artifacts[0]
    need = memory_need(model, artifact)

    def verdict(outcome: Outcome, *reasons: str, place: str | None = None) -> Verdict:
        total = need.total if need else None
        return Verdict(model.id, Role.GENERATE, outcome, reasons, artifact.name, place, total)

    if use.commercial and not model.commercial:
        return verdict(Outcome.REJECTED, f"its licence, {model.licence}, does not allow commercial use")
    if need is None:
        return verdict(Outcome.REJECTED, "the catalog does not know the size of its file")
    speed = tokens_per_second(model, machine)
    if chosen is not None and is_chosen:
        place = chosen.place
        pace = "" if place.accelerated else f", about {speed:.0f} tokens a second on the processor"
        other = best.model.id if best else "nothing"
        fits = f"the largest of use that fits beside {other}: {gigabytes(need.total)} in {place.name}"
        return verdict(Outcome.CHOSEN, fits + pace, *_file_reasons(artifact, machine), place=place.name)
    beside = best.need.total if best else 0
    places = fit([beside, need.total], pools) if best else fit([need.total], pools)
    if places is None:
        with_it = f" beside {best.model.id} ({gigabytes(beside)})" if best else ""
        return verdict(
            Outcome.REJECTED, f"needs {gigabytes(need.total)}{with_it}; there are {pools.describe()}"
        )
    if not places[-1].accelerated and speed < LEAST_TOKENS_PER_SECOND:
        return verdict(
            Outcome.REJECTED,
            f"about {speed:.1f} tokens a second on the processor, slower than reading",
        )
    return verdict(
        Outcome.POSSIBLE, f"smaller than {chosen.model.id}, which fits too" if chosen else "fits alone"
    )


def _assumptions(use: Use, machine: Machine, pools: Pools) -> tuple[str, ...]:
    cores = machine.cpu.usable_cores
    return (
        f"a {use.doc_length.value} document has about {use.doc_length.tokens} tokens",
        f"{use.corpus_size:,} documents are indexed, and a day is the longest that may take",
        f"times are estimates for {cores} core{'s' * (cores > 1)}, from one measurement on two AVX2 cores; "
        "bench and tune measure",
        "memory is reckoned from file sizes; plan reckons with the file's own numbers once it is pulled",
        *pools.notes,
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    for limit, unit, name in ((120, 1, "seconds"), (7200, 60, "minutes"), (172800, 3600, "hours")):
        if seconds < limit:
            return f"{max(1, round(seconds / unit))} {name}"
    return f"{round(seconds / 86400):,} days"
