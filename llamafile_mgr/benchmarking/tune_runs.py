"""Tuning, the measuring part: real engines, real requests, and a clock.

Two variants are alive at a time; what to try and what wins is decided in ``planner/tuning.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import Config
from llamafile_mgr.embedding.checked_engines import running_pools
from llamafile_mgr.embedding.vectors import normalise
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.messages import EngineRequest, json_request
from llamafile_mgr.engines.replies import read_json
from llamafile_mgr.errors import EngineError, NotReadyError
from llamafile_mgr.launching.tunables import find_tunable, keep_tuned
from llamafile_mgr.launching.tuning_records import load_tuned
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.planner.tuning import (
    FEWEST_ROUNDS,
    RunJudgement,
    RunVerdict,
    TunedSettings,
    TuneLimits,
    Variant,
    judge_run,
    next_candidate,
    variant_of,
    vary_plan,
)
from llamafile_mgr.supervisor.calls import Caller, Deadline
from llamafile_mgr.supervisor.pool import Pool, PoolOptions, make_policy
from llamafile_mgr.supervisor.supervisor import SupervisorOptions
from llamafile_mgr.tasks import run_all

#: Part of the budget that is kept to measure the winner against the default once more.
_FINAL_PART = 0.35
_TURN_SECONDS = 1.0
_START_SECONDS, _LEAST_START_SECONDS = 60.0, 5.0
_CALL_SECONDS = 300.0
#: More requests than any engine is given at once.
_MOST_REQUESTS = 1024
#: So long a machine measures that was never tuned and does it before a job.
_ONCE_SECONDS = 60
#: Texts of one request; the two that an engine has at once fill about one batch of 512 tokens.
_BATCH_TEXTS = 3
_GENERATED_TOKENS = 24
_PROSE = (
    "the engine reads a text and returns one vector that tells what it means so near texts have near vectors"
    " while others lie apart and a search for the nearest of them finds what a question asks for"
)
#: Words of the texts: most are short, a few fill a page, as paragraphs of documentation do.
_LENGTHS = (12, 18, 25, 33, 42, 55, 70, 90, 120, 160)


@dataclass(frozen=True, slots=True)
class ABRun:
    """One A/B run as it ended: ``best``, the fastest so far, against a ``candidate``.

    ``*_speed``: medians, texts or tokens a second. The candidate failed to start or to answer where
    ``failure`` says why.
    """

    candidate: Variant
    best: Variant
    best_speed: float
    candidate_speed: float
    judgement: RunJudgement
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class TuneReport:
    """What ``tune`` found. ``final``: the winner against the default, None when the default won.

    ``seconds``: how long it took.
    """

    default: Variant
    best: TunedSettings
    runs: tuple[ABRun, ...]
    final: ABRun | None
    seconds: float


class VariantRunner:
    """The engines of one variant, started alike and asked as the proxy asks them."""

    def __init__(self, plan: Plan, pools: Sequence[Pool]) -> None:
        self._plan = plan
        self._pools = pools
        self._rules = family_rules(plan.family)
        # Requests that one engine is given at once: enough that it never waits for us.
        self._depth = 2 if plan.role is Role.EMBED else plan.settings.slots

    async def measure(self, units: int) -> float:
        """Return the speed of one turn of ``units`` requests: texts, or generated tokens, a second."""
        # One each over all engines before the next, so that few requests are spread evenly too.
        workers = [pool for _ in range(self._depth) for pool in self._pools]
        waiting = iter(range(units))
        done = 0
        started = time.monotonic()

        async def work(pool: Pool) -> None:
            nonlocal done
            for number in waiting:
                count = await self._ask(pool, number)  # `done += await` would lose what others add meanwhile
                done += count

        await run_all(work(pool) for pool in workers)
        return done / max(1e-6, time.monotonic() - started)

    async def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors of texts, a row each, from one engine. Raises EngineError."""
        rows = []
        for at in range(0, len(texts), self._rules.max_texts):
            some = texts[at : at + self._rules.max_texts]
            reply = await self._pools[0].calls.ask(self._rules.embed(some), _caller())
            rows.append(self._rules.read_vectors(reply, len(some)).vectors)
        return normalise(np.concatenate(rows))

    @property
    def concurrency(self) -> int:
        """Return how many requests are under way at once."""
        return self._depth * len(self._pools)

    async def _ask(self, pool: Pool, number: int) -> int:
        request, size = self._request(number)
        reply = await pool.calls.ask(request, _caller())
        if self._plan.role is Role.EMBED:
            return len(self._rules.read_vectors(reply, size).vectors)
        body = read_json(reply)
        predicted = body.get("tokens_predicted") if isinstance(body, dict) else None
        if not isinstance(predicted, int) or predicted < 1:
            raise EngineError("the engine's completion has no tokens")
        return predicted

    def _request(self, number: int) -> tuple[EngineRequest, int]:
        if self._plan.role is Role.EMBED:
            size = min(_BATCH_TEXTS, self._rules.max_texts)
            limit = self._plan.max_tokens or self._plan.settings.context
            texts = [make_text(number * size + at, limit) for at in range(size)]
            return self._rules.embed(sorted(texts, key=len)), size
        prompt = make_text(number, self._plan.settings.context // 4)
        body = {"prompt": prompt, "n_predict": _GENERATED_TOKENS, "ignore_eos": True, "cache_prompt": False}
        return json_request("/completion", body), 1


def _caller() -> Caller:
    return Caller("", Deadline.after(_START_SECONDS, _CALL_SECONDS))


def make_text(number: int, token_limit: int) -> str:
    """Return the ``number``-th text: plain English words, of a length that no limit cuts."""
    # A word of this list has at most two tokens, whatever the tokenizer; a few are special.
    most = max(1, (token_limit - 4) // 2)
    words = _PROSE.split()
    length = min(_LENGTHS[number * 7 % len(_LENGTHS)], most)
    return " ".join(words[(number * 11 + at) % len(words)] for at in range(length))


@contextlib.asynccontextmanager
async def running_variant(
    plan: Plan, variant: Variant, paths: Paths, label: str, wait_seconds: float = _START_SECONDS
) -> AsyncIterator[VariantRunner]:
    """Run the engines of a variant, each checked for right answers, and end them afterwards.

    ``wait_seconds``: how long each may take to become ready.

    Raises:
        NotReadyError: one of them did not become ready.
    """
    varied = replace(vary_plan(plan, variant), replicas=1)
    plans = [replace(varied, name=f"{plan.name}-{label}{n}") for n in range(variant.replicas)]
    # The engines' own queues are measured, not ours.
    open_doors = PoolOptions(policy=replace(make_policy(varied), batch_texts=1, bulk_batches=_MOST_REQUESTS))
    options = SupervisorOptions(stall_seconds=_START_SECONDS, pools={each.name: open_doors for each in plans})
    async with running_pools(plans, paths, wait_seconds, options) as pools:
        yield VariantRunner(varied, pools)


async def tune_once(model: str, config: Config, paths: Paths) -> bool:
    """Tune a model unless this machine has a result for it, and tell whether that was done. Raises Error."""
    tunable = await asyncio.to_thread(find_tunable, model, config, paths)
    if await asyncio.to_thread(load_tuned, paths, tunable.machine, tunable.digest):
        return False
    report = await tune_plan(tunable.plan, tunable.limits, paths, _ONCE_SECONDS, lambda _: None)
    await asyncio.to_thread(keep_tuned, tunable, report.best, paths)
    return True


async def tune_plan(
    plan: Plan,
    limits: TuneLimits,
    paths: Paths,
    budget_seconds: float,
    progress: Callable[[ABRun], None],
) -> TuneReport:
    """Measure variants of ``plan`` until the budget is used up or nothing is left to try.

    A variant replaces the default only when it beats it in a last A/B run of its own.

    Raises:
        NotReadyError: not even the default plan's engines start.
        EngineError: they do not answer.
    """
    async with tuning_paths(paths) as own_paths:
        return await _tune(plan, limits, own_paths, budget_seconds, progress)


async def _tune(
    plan: Plan,
    limits: TuneLimits,
    paths: Paths,
    budget_seconds: float,
    progress: Callable[[ABRun], None],
) -> TuneReport:
    started = time.monotonic()
    end = started + budget_seconds
    search_end = end - budget_seconds * _FINAL_PART
    default = variant_of(plan)
    tried = frozenset({default})
    runs: list[ABRun] = []
    async with _Bench(plan, paths, search_end) as bench:
        await bench.start(default, "tune0-")
        units, turn_seconds = await calibrate(bench.runner, budget_seconds)
        shortest = 2 * FEWEST_ROUNDS * turn_seconds
        # A run that cannot be judged in time is not begun, but for the first.
        while not runs or time.monotonic() + shortest < search_end:
            candidate = next_candidate(bench.best, tried, limits)
            if candidate is None:
                break
            tried |= {candidate}
            runs.append(await bench.compare(candidate, units, f"tune{len(tried) - 1}-"))
            progress(runs[-1])
    final = None
    if bench.best != default:
        final = await compare_plans(plan, default, bench.best, paths, units, end)
        progress(final)
    best, gain = default, 1.0
    if final is not None and final.judgement.verdict is RunVerdict.BETTER:
        best, gain = final.candidate, final.judgement.gain
    seconds = time.monotonic() - started
    return TuneReport(default, TunedSettings(plan.family, best, gain), tuple(runs), final, seconds)


@contextlib.asynccontextmanager
async def tuning_paths(paths: Paths) -> AsyncIterator[Paths]:
    """Give directories apart from those of a running service; keys lie apart for every run."""
    own = replace(paths, state=paths.state / "tuning", runtime=paths.runtime / f"tuning-{os.getpid()}")
    try:
        yield own
    finally:
        await asyncio.to_thread(shutil.rmtree, own.runtime, ignore_errors=True)


async def compare_plans(
    plan: Plan, default: Variant, other: Variant, paths: Paths, units: int, end: float
) -> ABRun:
    """Measure two variants against each other until the judgement stands or ``end``, a monotonic time."""
    async with _Bench(plan, paths, end) as bench:
        await bench.start(default, "default-")
        return await bench.compare(other, units, "best-")


async def calibrate(runner: VariantRunner, budget_seconds: float) -> tuple[int, float]:
    """Return how many requests make a turn of about a second, less where the budget is small, and how many
    seconds such a turn takes."""
    started = time.monotonic()
    await runner.measure(runner.concurrency)
    seconds = max(1e-3, (time.monotonic() - started) / runner.concurrency)
    units = max(runner.concurrency, min(400, round(min(_TURN_SECONDS, budget_seconds / 45) / seconds)))
    return units, units * seconds


class _Bench:
    """Where A/B runs are made, until ``end``; the engines of the best variant stay up between them."""

    def __init__(self, plan: Plan, paths: Paths, end: float) -> None:
        self._plan, self._paths, self._end = plan, paths, end
        self._engines = contextlib.AsyncExitStack()
        self.best: Variant
        self.runner: VariantRunner

    async def __aenter__(self) -> _Bench:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engines.aclose()

    async def start(self, variant: Variant, label: str) -> None:
        """Start the engines of the first variant."""
        engines = running_variant(self._plan, variant, self._paths, label)
        self.best, self.runner = variant, await self._engines.enter_async_context(engines)

    async def compare(self, candidate: Variant, units: int, label: str) -> ABRun:
        """Measure the candidate in turns of ``units`` requests; it becomes the best when it wins."""
        best = self.best
        # What is left of the time, within reason.
        patience = min(_START_SECONDS, max(_LEAST_START_SECONDS, self._end - time.monotonic()))
        async with contextlib.AsyncExitStack() as own:
            try:
                engines = running_variant(self._plan, candidate, self._paths, label, patience)
                rival = await own.enter_async_context(engines)
                ours, theirs = await measure_in_turn(self.runner, rival, units, self._end)
            except (NotReadyError, EngineError) as error:
                lost = RunJudgement(RunVerdict.NOT_BETTER, 0.0, 0.0, 0)
                return ABRun(candidate, best, 0.0, 0.0, lost, error.describe())
            judgement = judge_run(ours, theirs)
            if judgement.verdict is RunVerdict.BETTER:
                await self._engines.aclose()
                self.best, self.runner, self._engines = candidate, rival, own.pop_all()
            return ABRun(candidate, best, statistics.median(ours), statistics.median(theirs), judgement)


async def measure_in_turn(
    best: VariantRunner, rival: VariantRunner, units: int, end: float
) -> tuple[list[float], list[float]]:
    """Measure both until the judgement stands or ``end``, a monotonic time; who begins alternates, so that
    warming up favours neither."""
    ours: list[float] = []
    theirs: list[float] = []
    await rival.measure(max(1, units // 4))
    turns = [(best, ours), (rival, theirs)]
    while True:
        began = time.monotonic()
        for who, speeds in turns:
            speeds.append(await who.measure(units))
        turns.reverse()
        now = time.monotonic()
        if judge_run(ours, theirs).verdict is not RunVerdict.OPEN or now + (now - began) > end:
            return ours, theirs
