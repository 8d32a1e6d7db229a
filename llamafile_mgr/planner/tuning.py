"""Tuning, the pure part: what to try next, which measurement is worth a change, and what it changes.

Variants meet in A/B runs, the best one so far against a candidate: both are alive, and each round measures
one after the other, so that a busy moment of the machine hits both. What counts is the median of the rounds'
ratios, and how far they scatter.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.planner.plans import Plan

_CPU = "disable"
#: A gain below this is not worth a setting that differs from the documented default.
_LEAST_GAIN = 1.03
#: Rounds of an A/B run: fewer are no proof, more change nothing.
FEWEST_ROUNDS, _MOST_ROUNDS = 4, 9
#: Scatter of a median: 1.4826 x MAD estimates the standard deviation; two standard errors must be beaten.
_MAD_TO_SIGMA = 1.4826
_SIGMAS = 2.0
_MOST_REPLICAS, _MOST_SLOTS, _MOST_BATCH = 8, 16, 2048


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a model. ``batch``, ``flash_attention``: None leaves it to the engine."""

    threads: int
    replicas: int
    slots: int
    batch: int | None = None
    flash_attention: bool | None = None
    cpu_only: bool = False

    def describe(self) -> str:
        """Return it in words, as progress shows it."""
        words = [f"{self.replicas} x {self.threads} threads", f"{self.slots} slots"]
        if self.batch is not None:
            words.append(f"batch {self.batch}")
        if self.flash_attention is not None:
            words.append(f"flash attention {'on' if self.flash_attention else 'off'}")
        return ", ".join([*words, *(["cpu"] if self.cpu_only else [])])


@dataclass(frozen=True, slots=True)
class MeasuredType:
    """Another type of the weights: ``gain``, times the speed of the file that was tuned, and ``least_cosine``
    of its vectors with known ones."""

    quantisation: str
    gain: float
    least_cosine: float


@dataclass(frozen=True, slots=True)
class TunedSettings:
    """The variant that was the fastest for one engine family on one machine, and its ``gain``: times the
    default plan's speed, 1.0 where nothing was faster. ``types``: other types of the file, as far as they
    were measured."""

    family: Family
    variant: Variant
    gain: float
    types: tuple[MeasuredType, ...] = ()

    def describe(self) -> str:
        """Return the reason that plans print."""
        if self.gain <= 1.0:
            return "measured on this machine by tune: nothing that was tried is faster"
        return f"measured on this machine by tune: {self.gain:.2f} times the speed of the default plan"


@dataclass(frozen=True, slots=True)
class TuneLimits:
    """What a variant must keep to.

    ``least_batch``: tokens that one batch must hold, None where no batch is passed. ``has_gpu``: the default
    plan computes on a GPU. ``fits``: whether the memory is enough for a variant beside the best one so far.
    """

    family: Family
    role: Role
    cores: int
    least_batch: int | None
    has_gpu: bool
    fits: Callable[[Variant], bool]


class RunVerdict(StrEnum):
    """How an A/B run stands: the candidate is faster, it is not, or more rounds are needed."""

    BETTER = "better"
    NOT_BETTER = "not better"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class RunJudgement:
    """What an A/B run says. ``gain``: the median ratio of the speeds. ``noise``: what it must exceed 1 by."""

    verdict: RunVerdict
    gain: float
    noise: float
    rounds: int


def variant_of(plan: Plan) -> Variant:
    """Return the variant that a plan is."""
    settings = plan.settings
    return Variant(settings.threads, plan.replicas, settings.slots, settings.batch, settings.flash_attention)


def vary_plan(plan: Plan, variant: Variant) -> Plan:
    """Return ``plan`` with the settings of ``variant``; its reasons and memory are those of ``plan``."""
    settings = replace(
        plan.settings,
        threads=variant.threads,
        slots=variant.slots,
        batch=variant.batch,
        flash_attention=variant.flash_attention,
        gpu=_CPU if variant.cpu_only else plan.settings.gpu,
        gpu_layers=None if variant.cpu_only else plan.settings.gpu_layers,
    )
    return replace(plan, settings=settings, replicas=variant.replicas)


def next_candidate(best: Variant, tried: frozenset[Variant], limits: TuneLimits) -> Variant | None:
    """Return the next variant to try against ``best``, None when its neighbourhood is exhausted.

    What moved throughput most where it was measured comes first: engines against threads, then flash
    attention, batch and slots.
    """
    untried = (each for each in _neighbours(best, limits) if each != best and each not in tried)
    return next((variant for variant in untried if is_allowed(variant, limits)), None)


def is_allowed(variant: Variant, limits: TuneLimits) -> bool:
    """Tell whether a variant keeps to the limits."""
    return (
        min(variant.threads, variant.replicas, variant.slots) >= 1
        and variant.threads * variant.replicas <= limits.cores
        and (variant.batch is None or variant.batch >= (limits.least_batch or 1))
        and limits.fits(variant)
    )


def _neighbours(variant: Variant, limits: TuneLimits) -> Iterator[Variant]:
    if limits.has_gpu and not variant.cpu_only:
        yield replace(variant, cpu_only=True)
    if limits.role is Role.EMBED:
        for replicas in _steps(variant.replicas, min(limits.cores, _MOST_REPLICAS)):
            yield replace(variant, replicas=replicas, threads=max(1, limits.cores // replicas))
    if variant.threads > 1:
        yield replace(variant, threads=variant.threads // 2)
    yield replace(variant, threads=min(limits.cores // variant.replicas, variant.threads * 2))
    rules = family_rules(limits.family)
    if rules.takes_flash_attention:
        yield replace(variant, flash_attention=variant.flash_attention is False)
        if variant.batch is not None:
            yield replace(variant, batch=min(_MOST_BATCH, variant.batch * 2))
            yield replace(variant, batch=max(limits.least_batch or 1, variant.batch // 2))
    if limits.role is Role.EMBED and not rules.one_slot:
        yield replace(variant, slots=min(_MOST_SLOTS, variant.slots * 2))
        yield replace(variant, slots=max(1, variant.slots // 2))


def _steps(value: int, most: int) -> Iterator[int]:
    """Yield all, one, twice and half of ``value``, nothing twice and nothing above ``most``."""
    steps = dict.fromkeys((most, 1, value * 2, value // 2))
    yield from (step for step in steps if 1 <= step <= most and step != value)


def judge_run(best: Sequence[float], candidate: Sequence[float]) -> RunJudgement:
    """Judge the speeds of rounds that were measured in turn; higher is faster, equal lengths, all above 0.

    The candidate wins when the median of the ratios beats both the least gain and the scatter, and when it
    was faster in all rounds but one.
    """
    ratios = [theirs / ours for ours, theirs in zip(best, candidate, strict=True)]
    rounds = len(ratios)
    if not rounds:
        return RunJudgement(RunVerdict.OPEN, 1.0, math.inf, 0)
    gain = statistics.median(ratios)
    scatter = _MAD_TO_SIGMA * statistics.median(abs(ratio - gain) for ratio in ratios)
    noise = max(_LEAST_GAIN - 1.0, _SIGMAS * scatter / math.sqrt(rounds))
    faster = sum(ratio > 1.0 for ratio in ratios)
    verdict = RunVerdict.OPEN
    if rounds < FEWEST_ROUNDS:
        if rounds >= 2 and max(ratios) < 0.9:  # hopeless
            verdict = RunVerdict.NOT_BETTER
    elif gain - 1.0 > noise and faster >= rounds - 1:
        verdict = RunVerdict.BETTER
    elif rounds >= _MOST_ROUNDS or gain <= 1.0 or faster < rounds - 2:
        verdict = RunVerdict.NOT_BETTER
    return RunJudgement(verdict, gain, noise, rounds)
