"""Measuring the file types of a model: how fast each is here, and how far its vectors lie from known ones.

Each meets the plan's own file in an A/B run with the same settings, as the variants of ``tune`` do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.benchmarking.tune_runs import (
    VariantRunner,
    calibrate,
    make_text,
    measure_in_turn,
    running_variant,
    tuning_paths,
)
from llamafile_mgr.catalog import load_golden
from llamafile_mgr.embedding.vectors import cosines, normalise
from llamafile_mgr.errors import Error
from llamafile_mgr.launching.other_types import OtherType, exchange_file, find_other_types, make_other
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.planner.sizing import encoder_slots
from llamafile_mgr.planner.tuning import MeasuredType, RunJudgement, RunVerdict, Variant, judge_run

#: Texts whose vectors are compared where a model has no golden ones.
_COMPARED = 10
#: A budget is calibrated for many A/B runs, of which this is one.
_CALIBRATED = 3.0


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Cosines to known vectors: the least and the mean."""

    least: float
    mean: float


@dataclass(frozen=True, slots=True)
class FileTypeRun:
    """One file type against the plan's own. ``judgement`` is of the speed, its gain 1.0 where ``other`` is
    the plan's own type. ``failure``: why it could not be measured, and then nothing else says anything."""

    other: OtherType
    judgement: RunJudgement
    accuracy: Accuracy | None = None
    failure: str | None = None


def measured_types(runs: Sequence[FileTypeRun]) -> tuple[MeasuredType, ...]:
    """Return what was measured to the end, for later plans."""
    ended = (run for run in runs if run.judgement.rounds and run.judgement.verdict is not RunVerdict.OPEN)
    return tuple(
        MeasuredType(run.other.quantisation, run.judgement.gain, run.accuracy.least)
        for run in ended
        if run.accuracy is not None
    )


async def compare_file_types(
    plan: Plan,
    variant: Variant,
    paths: Paths,
    seconds: float,
    progress: Callable[[FileTypeRun], None],
) -> tuple[FileTypeRun, ...]:
    """Measure the other file types of ``plan`` for about ``seconds`` in all, with ``variant``'s settings,
    and return the accuracy of the plan's own first; nothing where there are no others.

    Raises:
        NotReadyError: the engines of the plan's own file do not start.
        EngineError: they do not answer.
    """
    others = await asyncio.to_thread(find_other_types, plan, paths)
    if not others:
        return ()
    runs: list[FileTypeRun] = []
    async with tuning_paths(paths) as own_paths, running_variant(plan, variant, own_paths, "own-") as own:
        texts, known = await _known_vectors(plan, own)
        itself = OtherType(plan.quantisation or "unknown", plan.name, plan.path)
        same = RunJudgement(RunVerdict.NOT_BETTER, 1.0, 0.0, 0)
        runs.append(FileTypeRun(itself, same, _accuracy(await own.vectors(texts), known)))
        bench = _FileBench(own, plan, variant, paths, own_paths, texts, known)
        for other in others:
            try:
                runs.append(await bench.compare(other, seconds / len(others)))
            except Error as error:
                runs.append(FileTypeRun(other, judge_run((), ()), failure=error.describe()))
            progress(runs[-1])
    return tuple(runs)


@dataclass(frozen=True, slots=True)
class _FileBench:
    """Where the other types meet ``own``, the engines of the plan's own file. ``known``: the vectors that
    ``texts`` should have. ``own_paths``: the directories of the engines that are measured."""

    own: VariantRunner
    plan: Plan
    variant: Variant
    paths: Paths
    own_paths: Paths
    texts: list[str]
    known: NDArray[np.float32]

    async def compare(self, other: OtherType, seconds: float) -> FileTypeRun:
        """Measure for so long once its file is made and its engines are ready. Raises Error."""
        path, made = other.path, other.path is None
        if path is None:
            path = await asyncio.to_thread(make_other, self.plan, other, self.paths)
        try:
            plan = await asyncio.to_thread(exchange_file, self.plan, path)
            slots = min(self.variant.slots, encoder_slots(plan.quantisation))
            variant, label = replace(self.variant, slots=slots), f"{other.quantisation.lower()}-"
            async with running_variant(plan, variant, self.own_paths, label) as rival:
                end = time.monotonic() + seconds
                units, _ = await calibrate(self.own, _CALIBRATED * seconds)
                ours, theirs = await measure_in_turn(self.own, rival, units, end)
                accuracy = _accuracy(await rival.vectors(self.texts), self.known)
        finally:
            if made:
                await asyncio.to_thread(path.unlink, missing_ok=True)
        return FileTypeRun(other, judge_run(ours, theirs), accuracy)


async def _known_vectors(plan: Plan, own: VariantRunner) -> tuple[list[str], NDArray[np.float32]]:
    """Return texts and what their vectors should be: the model's golden ones, else those of its own file."""
    golden = load_golden(plan.model) if plan.model is not None else ()
    if golden:
        vectors = np.array([entry.vector for entry in golden], dtype=np.float32)
        return [entry.text for entry in golden], normalise(vectors)
    limit = plan.max_tokens or plan.settings.context
    texts = [make_text(number, limit) for number in range(_COMPARED)]
    return texts, await own.vectors(texts)


def _accuracy(vectors: NDArray[np.float32], known: NDArray[np.float32]) -> Accuracy:
    values = cosines(vectors, known)
    return Accuracy(float(values.min()), float(values.mean()))
