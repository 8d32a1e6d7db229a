"""``tune``: measure how a model runs fastest on this machine, and keep the result for ``serve``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_models, engine_option
from llamafile_mgr.cli.output import format_table, print_json, print_line

if TYPE_CHECKING:
    from llamafile_mgr.benchmarking.file_type_runs import FileTypeRun
    from llamafile_mgr.benchmarking.tune_runs import ABRun, TuneReport
    from llamafile_mgr.planner.plans import Plan

#: Part of the budget for the other types of the file, where there are any.
_FILES_PART = 0.25
_TYPE_HEADERS = ("TYPE", "FILE", "SPEED", "LEAST COSINE", "MEAN")


@click.command("tune")
@click.argument("model", metavar="MODEL", shell_complete=complete_models)
@click.option(
    "--budget",
    type=click.IntRange(20, 90),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Measure for so long, 20 to 90.",
)
@engine_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, model: str, budget: int, engine: tuple[str, ...] | None, as_json: bool) -> None:
    """Start MODEL's real engine in several ways, measure them in turn, and keep the fastest for serve.

    Threads, engines, flash attention, batch, slots and, where there is one, the GPU are varied. A change
    must beat the noise of the measurements; otherwise the default stays. The result belongs to this machine,
    this file and this engine: a change of any of them makes it void. Stop other work first.

    Of a model that embeds, the types of its file that are here or can be made are measured too, with the
    accuracy that each costs: the cosine to vectors that the model is known to give. None takes the place
    of the file that is served, for other vectors need a new index.

    \b
    Examples:
      llamafile-mgr tune all-minilm-l6-v2
      llamafile-mgr tune ./Qwen3.5-2B-Q8_0.llamafile --budget 90 --json
    """
    import asyncio

    from llamafile_mgr.benchmarking.file_type_runs import compare_file_types, measured_types
    from llamafile_mgr.benchmarking.tune_runs import tune_plan
    from llamafile_mgr.launching.other_types import find_other_types
    from llamafile_mgr.launching.tunables import find_tunable, keep_tuned
    from llamafile_mgr.planner.tuning import variant_of

    tunable = find_tunable(model, context.load_config({"engines.programs": engine}), context.paths)
    name = tunable.plan.name

    def show(run: ABRun) -> None:
        click.echo(f"{name}: {describe_run(run, tunable.plan)}", err=True)

    def show_type(run: FileTypeRun) -> None:
        click.echo(f"{name}: {describe_type(run)}", err=True)

    default = variant_of(tunable.plan).describe()
    click.echo(f"{name}: tuning for about {budget} seconds, by default {default}", err=True)
    # What is left to try of the settings matters less than what other files cost and bring.
    part = _FILES_PART if find_other_types(tunable.plan, context.paths) else 0.0
    settings_seconds, files_seconds = (1.0 - part) * budget, part * budget
    report = asyncio.run(tune_plan(tunable.plan, tunable.limits, context.paths, settings_seconds, show))
    path = keep_tuned(tunable, report.best, context.paths)
    best = report.best.variant
    types = asyncio.run(compare_file_types(tunable.plan, best, context.paths, files_seconds, show_type))
    if types:
        keep_tuned(tunable, dataclasses.replace(report.best, types=measured_types(types)), context.paths)
    if as_json:
        told = {**_report_as_json(report), "file_types": [_type_as_json(run) for run in types]}
        print_json({"model": name, "file": str(path), **told})
        return
    print_line(f"best: {best.describe()}")
    print_line(report.best.describe())
    print_line(f"kept in {path}; took {report.seconds:.0f} seconds")
    if types:
        print_line()
        print_line(format_table(_TYPE_HEADERS, [_type_row(run) for run in types]))
        for advice in _advise(types):
            print_line(advice)


def describe_run(run: ABRun, plan: Plan) -> str:
    """Return one A/B run as a line of text."""
    words = run.candidate.describe()
    if run.failure is not None:
        return f"{words}: failed: {run.failure}"
    unit = "texts/s" if plan.role.value == "embed" else "tokens/s"
    judged = run.judgement
    outcomes = {"better": "faster", "not better": "no faster", "open": "undecided, time is up"}
    outcome = outcomes[judged.verdict.value]
    return (
        f"{words}: {run.candidate_speed:.1f} against {run.best_speed:.1f} {unit}, "
        f"{judged.gain:.2f} x (noise {judged.noise:.2f}, {judged.rounds} rounds): {outcome}"
    )


def describe_type(run: FileTypeRun) -> str:
    """Return one file type as a line of text."""
    kind, judged, accuracy = run.other.quantisation, run.judgement, run.accuracy
    if run.failure is not None or accuracy is None:
        return f"{kind}: not measured: {run.failure}"
    cosine = f"cosine to known vectors {accuracy.least:.4f} and more, {accuracy.mean:.5f} in the mean"
    if not judged.rounds:
        return f"{kind}: {cosine}"
    return f"{kind}: {judged.gain:.2f} x (noise {judged.noise:.2f}, {judged.rounds} rounds), {cosine}"


def _type_row(run: FileTypeRun) -> tuple[str, ...]:
    kind, accuracy = run.other.quantisation, run.accuracy
    name = run.other.name or "made for this measurement"
    if accuracy is None:
        return kind, name, "not measured", "", ""
    return kind, name, f"{run.judgement.gain:.2f} x", f"{accuracy.least:.4f}", f"{accuracy.mean:.5f}"


def _advise(types: Sequence[FileTypeRun]) -> Iterator[str]:
    """Yield how the fastest other type is had, where it is faster."""
    best = max(types, key=lambda run: run.judgement.gain)
    name, kind, judged = best.other.name, best.other.quantisation, best.judgement
    if judged.verdict.value == "open" and judged.gain > 1.0 + judged.noise:
        yield f"{kind} may be faster, but {judged.rounds} rounds are no proof: try a larger --budget"
        return
    if judged.verdict.value != "better":
        yield "no other type was faster"
        return
    if name is None:
        yield f"{kind} is faster: make such a file with llama.cpp's llama-quantize, and index again"
        return
    fetch = "" if best.other.path is not None else f"llamafile-mgr pull {name}, then "
    yield f"{kind} is faster: {fetch}llamafile-mgr serve {name}, and index again"


def _type_as_json(run: FileTypeRun) -> dict[str, Any]:
    accuracy = run.accuracy
    return {
        "type": run.other.quantisation,
        "name": run.other.name,
        "here": run.other.path is not None,
        **dataclasses.asdict(run.judgement),
        "least_cosine": accuracy and accuracy.least,
        "mean_cosine": accuracy and accuracy.mean,
        "failure": run.failure,
    }


def _report_as_json(report: TuneReport) -> dict[str, Any]:
    return {
        "family": report.best.family.value,
        "gain": report.best.gain,
        "best": dataclasses.asdict(report.best.variant),
        "default": dataclasses.asdict(report.default),
        "contests": [_run_as_json(run) for run in report.runs],
        "final": _run_as_json(report.final) if report.final is not None else None,
        "seconds": round(report.seconds, 1),
    }


def _run_as_json(run: ABRun) -> dict[str, Any]:
    return {
        "challenger": dataclasses.asdict(run.candidate),
        "incumbent": dataclasses.asdict(run.best),
        "challenger_speed": run.candidate_speed,
        "incumbent_speed": run.best_speed,
        **dataclasses.asdict(run.judgement),
        "failure": run.failure,
    }
