"""Which embedding and generation model to run on this machine, and why not the others.

The reasoning is the post's: licence first; memory for both models at once; then whether the collection can
be indexed in a day; then the length of documents; and among what is left the best mean task rank. Pure
functions over machine, catalog and use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from llamafile_mgr.catalog import ArtifactKind, Catalog, Model, Role
from llamafile_mgr.machine import System
from llamafile_mgr.planner.budget import MemoryBudget, describe_budgets, memory_budgets
from llamafile_mgr.planner.memory import format_size
from llamafile_mgr.planner.options import (
    LEAST_TOKENS_PER_SECOND,
    Option,
    embedding_option,
    tokens_per_second,
    usable_partners,
)
from llamafile_mgr.planner.prospects import Prospect, Site
from llamafile_mgr.planner.published import PublishedScores, load_published
from llamafile_mgr.planner.verdicts import ModelOutcome, ModelVerdict, Recommendation, Use

#: Longest time that indexing may take before a smaller model is the better choice.
_INDEX_LIMIT_SECONDS = 24 * 3600.0
_WINDOWS_EXECUTABLE_LIMIT = 4 * 1024**3
_OUTCOMES = list(ModelOutcome)


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked, where, and with which scores and memories."""

    use: Use
    site: Site
    published: PublishedScores
    budgets: tuple[MemoryBudget, ...]

    def there_are(self) -> str:
        return f"there are {describe_budgets(self.budgets, self.use.max_memory)}"


def recommend(
    site: Site, catalog: Catalog, use: Use, published: PublishedScores | None = None
) -> Recommendation:
    """Return the models for this machine and this use, with a verdict on every model of the catalog.

    Raises:
        PlanError: nothing tells how much memory there is, and ``use`` does not say.
    """
    site = dataclasses.replace(site, limit=use.max_memory)
    budgets, notes = memory_budgets(site.machine, site.environ, use.max_memory)
    question = _Question(use, site, published or load_published(), budgets)
    embedders = [m for m in catalog.models.values() if m.role is Role.EMBED]
    embedders.sort(key=lambda m: _order(question.published.mtr_of(m.title)))
    writers = [m for m in catalog.models.values() if m.role is Role.GENERATE] if use.with_generation else []
    partners = usable_partners(writers, use, site)

    verdicts: list[ModelVerdict] = []
    options: list[Option] = []
    for model in embedders:
        option, reason = embedding_option(model, use, site, partners)
        if option is None:
            mtr = question.published.mtr_of(model.title)
            verdicts.append(ModelVerdict(model.id, model.role, ModelOutcome.REJECTED, (reason,), mtr=mtr))
        else:
            options.append(option)
    best = _best(options, use)
    verdicts += [_embedding_verdict(option, best, question) for option in options]
    verdicts.sort(key=lambda v: (_OUTCOMES.index(v.outcome), _order(v.mtr)))
    if use.with_generation:
        written = [_generation_verdict(model, best, question) for model in writers]
        verdicts += sorted(written, key=lambda v: (_OUTCOMES.index(v.outcome), -(v.memory or 0)))
    return Recommendation(use, budgets, tuple(verdicts), _assumptions(question, notes))


def _order(mtr: float | None) -> float:
    return float("inf") if mtr is None else mtr


def _too_slow(option: Option) -> bool:
    return option.seconds is not None and option.seconds > _INDEX_LIMIT_SECONDS


def _holds(option: Option, use: Use) -> bool:
    """Return whether a document goes into one embedding."""
    return option.limit >= use.doc_length.tokens


def _best(options: Sequence[Option], use: Use) -> Option | None:
    """Return the option that the post's reasoning leads to; ``options`` stand in order of rank."""
    quick = [option for option in options if not _too_slow(option)]
    if not quick:
        return min(options, key=lambda o: o.seconds or 0.0, default=None)
    return next((option for option in quick if _holds(option, use)), quick[0])


def _place(prospect: Prospect, budgets: Sequence[MemoryBudget]) -> str:
    """Return the names of the memories that a model lies in; the last of all is main memory."""
    plan, main = prospect.plan, budgets[-1].name
    if plan.memory is None or not plan.memory.device:
        return main
    return plan.device if plan.accelerated else f"{plan.device} and {main}"


def _embedding_verdict(option: Option, best: Option | None, question: _Question) -> ModelVerdict:
    chosen, embedder, model = option is best, option.embedder, option.embedder.model
    reasons = [
        _rank_reason(model, question.published),
        _licence_reason(model),
        _memory_reason(option, question),
        _length_reason(option, question.use),
        _time_reason(option, question),
        *_file_reasons(embedder, question),
    ]
    if best is not None and not chosen:
        reasons.insert(0, _why_lost(option, best, question))
    return ModelVerdict(
        model=model.id,
        role=Role.EMBED,
        outcome=ModelOutcome.CHOSEN if chosen else ModelOutcome.POSSIBLE,
        reasons=tuple(reasons),
        artifact=embedder.artifact.name,
        place=_place(embedder, question.budgets),
        memory=embedder.memory,
        mtr=question.published.mtr_of(model.title),
        index_seconds=option.seconds,
    )


def _why_lost(option: Option, best: Option, question: _Question) -> str:
    other = best.embedder
    if _too_slow(option):
        faster = f"takes {_duration(best.seconds)}"
        if other.plan.accelerated:
            faster = f"runs on {_place(other, question.budgets)}"
        took = _duration(option.seconds)
        return f"indexing takes about {took} here, more than a day; {other.model.id} {faster}"
    if _holds(best, question.use) and not _holds(option, question.use):
        return f"documents have to be cut to {option.limit} tokens; {other.model.id} takes them whole"
    theirs = question.published.mtr_of(other.model.title)
    return f"{other.model.id} ranks higher" + (f" (mean task rank {theirs})" if theirs is not None else "")


def _rank_reason(model: Model, published: PublishedScores) -> str:
    mtr = published.mtr_of(model.title)
    if mtr is None:
        return "it is not among the post's ten best"
    return f"the post's {model.summary}: mean task rank {mtr} over 40 data sets"


def _licence_reason(model: Model) -> str:
    if model.commercial:
        return f"its licence, {model.licence}, allows commercial use"
    return f"its licence, {model.licence}, allows no commercial use; --commercial leaves it out"


def _memory_reason(option: Option, question: _Question) -> str:
    embedder, memory = option.embedder, option.embedder.plan.memory
    parts = memory.describe() if memory is not None else ""
    where = _place(embedder, question.budgets)
    text = f"needs {format_size(embedder.memory)} in {where}, for its {embedder.artifact.name} file: {parts}"
    if option.partner:
        text += f"; {option.partner.model.id} fits beside it"
    if embedder.model.memory_gb is not None:
        text += f" (the post's {embedder.model.memory_gb} GB are for fp32)"
    return f"{text}; {question.there_are()}"


def _length_reason(option: Option, use: Use) -> str:
    limit = option.limit
    trained = option.embedder.model.recommended_tokens
    if not _holds(option, use):
        return f"documents of about {use.doc_length.tokens} tokens are cut into pieces of at most {limit}"
    if trained is not None and trained < use.doc_length.tokens:
        return f"takes {limit} tokens, but was trained on texts of {trained}"
    return f"takes texts of {limit} tokens; a document has about {use.doc_length.tokens}"


def _time_reason(option: Option, question: _Question) -> str:
    count = f"{question.use.corpus_size:,} documents"
    if option.embedder.plan.accelerated:
        where = _place(option.embedder, question.budgets)
        return f"runs on {where}; how long {count} take there was not estimated: bench tells"
    if option.seconds is None:
        return f"how long {count} take is unknown"
    return f"indexing {count} takes about {_duration(option.seconds)} on {_cores(question)}"


def _cores(question: _Question) -> str:
    cores = question.site.machine.cpu.usable_cores
    return f"{cores} core{'s' * (cores > 1)}"


def _file_reasons(prospect: Prospect, question: _Question) -> list[str]:
    facts = question.site.facts(prospect.model, prospect.artifact)
    if prospect.artifact.kind is ArtifactKind.WEIGHTS:
        return ["weights alone: it runs on a runtime, which has to be pulled too, or on the embedded engine"]
    windows = question.site.machine.system is System.WINDOWS
    if windows and facts is not None and facts.size > _WINDOWS_EXECUTABLE_LIMIT:
        return ["Windows starts no program above 4 GB: a runtime has to be pulled too, and runs it with -m"]
    return []


def _generation_verdict(model: Model, best: Option | None, question: _Question) -> ModelVerdict:
    speed = tokens_per_second(model, question.site.machine)
    chosen, embedder = (best.partner, best.embedder) if best is not None else (None, None)
    if chosen is not None and embedder is not None and model.id == chosen.model.id:
        where = _place(chosen, question.budgets)
        pace = "" if chosen.plan.accelerated else f", about {speed:.0f} tokens a second on the processor"
        beside = f"the largest of use that fits beside {embedder.model.id}"
        fits = f"{beside}: {format_size(chosen.memory)} in {where}{pace}"
        return _written(model, ModelOutcome.CHOSEN, fits, chosen, where, *_file_reasons(chosen, question))
    if question.use.commercial and not model.commercial:
        reason = f"its licence, {model.licence}, does not allow commercial use"
        return _written(model, ModelOutcome.REJECTED, reason)
    first = [(embedder.model, embedder.artifact)] if embedder is not None else []
    planned = question.site.plan(*first, (model, model.artifacts[0]))
    if isinstance(planned, str):
        beside = f"beside {embedder.model.id}: " if embedder is not None else ""
        return _written(model, ModelOutcome.REJECTED, beside + planned)
    prospect = planned[-1]
    if not prospect.plan.accelerated and speed < LEAST_TOKENS_PER_SECOND:
        reason = f"about {speed:.1f} tokens a second on the processor, slower than reading"
        return _written(model, ModelOutcome.REJECTED, reason, prospect)
    why = f"smaller than {chosen.model.id}, which fits too" if chosen else "fits alone"
    return _written(model, ModelOutcome.POSSIBLE, why, prospect)


def _written(
    model: Model,
    outcome: ModelOutcome,
    reason: str,
    prospect: Prospect | None = None,
    place: str | None = None,
    *further: str,
) -> ModelVerdict:
    artifact = prospect.artifact if prospect is not None else model.artifacts[0]
    memory = prospect.memory if prospect is not None else None
    reasons = (reason, *further)
    return ModelVerdict(model.id, Role.GENERATE, outcome, reasons, artifact.name, place, memory)


def _assumptions(question: _Question, notes: tuple[str, ...]) -> tuple[str, ...]:
    use = question.use
    return (
        f"a {use.doc_length.value} document has about {use.doc_length.tokens} tokens",
        f"{use.corpus_size:,} documents are indexed, and a day is the longest that may take",
        f"times are estimates for {_cores(question)}, from one measurement on two AVX2 cores; "
        "bench and tune measure",
        "memory is what plan would ask for; of files that are not pulled yet, by the catalog's figures",
        *notes,
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    for limit, unit, name in ((120, 1, "seconds"), (7200, 60, "minutes"), (172800, 3600, "hours")):
        if seconds < limit:
            return f"{max(1, round(seconds / unit))} {name}"
    return f"{round(seconds / 86400):,} days"
