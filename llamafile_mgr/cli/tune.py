"""``tune``: measure how a model runs fastest on this machine, and keep the result for ``serve``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_models
from llamafile_mgr.cli.output import print_json, print_line

if TYPE_CHECKING:
    from llamafile_mgr.benchmarking.tune_runs import Contest, TuneReport
    from llamafile_mgr.planner.plans import Plan

__all__ = ["command"]


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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, model: str, budget: int, as_json: bool) -> None:
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

    tunable = find_tunable(model, context.load_config(), context.paths)
    name = tunable.plan.name

    def show(contest: Contest) -> None:
        click.echo(f"{name}: {describe_contest(contest, tunable.plan)}", err=True)

    click.echo(f"{name}: tuning for about {budget} seconds, by default {_default(tunable.plan)}", err=True)
    report = asyncio.run(tune_plan(tunable.plan, tunable.limits, context.paths, budget, show))
    path = keep_tuned(tunable, report.best, context.paths)
    if as_json:
        print_json({"model": name, "file": str(path), **_report_as_json(report)})
        return
    print_line(f"best: {report.best.variant.describe()}")
    print_line(report.best.describe())
    print_line(f"kept in {path}; took {report.seconds:.0f} seconds")


def describe_contest(contest: Contest, plan: Plan) -> str:
    """Return one duel as a line of text."""
    words = contest.challenger.describe()
    if contest.failure is not None:
        return f"{words}: failed: {contest.failure}"
    unit = "texts/s" if plan.role.value == "embed" else "tokens/s"
    duel = contest.duel
    outcome = {"better": "faster", "not better": "no faster", "open": "undecided, time is up"}
    return (
        f"{words}: {contest.challenger_speed:.1f} against {contest.incumbent_speed:.1f} {unit}, "
        f"{duel.gain:.2f} x (noise {duel.noise:.2f}, {duel.rounds} rounds): {outcome[duel.verdict.value]}"
    )


def _default(plan: Plan) -> str:
    from llamafile_mgr.planner.tuning import variant_of

    return variant_of(plan).describe()


def _report_as_json(report: TuneReport) -> dict[str, Any]:
    return {
        "family": report.best.family.value,
        "gain": report.best.gain,
        "best": dataclasses.asdict(report.best.variant),
        "default": dataclasses.asdict(report.default),
        "contests": [_contest_as_json(contest) for contest in report.contests],
        "final": _contest_as_json(report.final) if report.final is not None else None,
        "seconds": round(report.seconds, 1),
    }


def _contest_as_json(contest: Contest) -> dict[str, Any]:
    return {
        "challenger": dataclasses.asdict(contest.challenger),
        "incumbent": dataclasses.asdict(contest.incumbent),
        "challenger_speed": contest.challenger_speed,
        "incumbent_speed": contest.incumbent_speed,
        "verdict": contest.duel.verdict.value,
        "gain": contest.duel.gain,
        "noise": contest.duel.noise,
        "rounds": contest.duel.rounds,
        "failure": contest.failure,
    }
