"""``tune``: measure how a model runs fastest on this machine, and keep the result for ``serve``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_models, engine_option
from llamafile_mgr.cli.output import print_json, print_line

if TYPE_CHECKING:
    from llamafile_mgr.benchmarking.tune_runs import ABRun, TuneReport
    from llamafile_mgr.planner.plans import Plan


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

    \b
    Examples:
      llamafile-mgr tune all-minilm-l6-v2
      llamafile-mgr tune ./Qwen3.5-2B-Q8_0.llamafile --budget 90 --json
    """
    import asyncio

    from llamafile_mgr.benchmarking.tune_runs import tune_plan
    from llamafile_mgr.launching.tunables import find_tunable, keep_tuned
    from llamafile_mgr.planner.tuning import variant_of

    tunable = find_tunable(model, context.load_config({"engines.programs": engine}), context.paths)
    name = tunable.plan.name

    def show(run: ABRun) -> None:
        click.echo(f"{name}: {describe_run(run, tunable.plan)}", err=True)

    default = variant_of(tunable.plan).describe()
    click.echo(f"{name}: tuning for about {budget} seconds, by default {default}", err=True)
    report = asyncio.run(tune_plan(tunable.plan, tunable.limits, context.paths, budget, show))
    path = keep_tuned(tunable, report.best, context.paths)
    if as_json:
        print_json({"model": name, "file": str(path), **_report_as_json(report)})
        return
    print_line(f"best: {report.best.variant.describe()}")
    print_line(report.best.describe())
    print_line(f"kept in {path}; took {report.seconds:.0f} seconds")


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
