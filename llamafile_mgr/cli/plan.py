"""``plan``: how models would be started on this machine or another one, and why."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_models, engine_option, read_models, role_options
from llamafile_mgr.cli.output import format_bytes, format_table, print_json, print_line

if TYPE_CHECKING:
    from llamafile_mgr.launching.wanted import ToldRoles
    from llamafile_mgr.planner.plans import Plan


@click.command("plan")
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=complete_models)
@role_options("Plan")
@engine_option
@click.option(
    "--machine",
    "snapshot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Plan for the machine of this snapshot, which doctor --json wrote.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(
    context: Context,
    models: tuple[str, ...],
    roles: ToldRoles,
    engine: tuple[str, ...] | None,
    snapshot: Path | None,
    as_json: bool,
) -> None:
    """Say how MODELs would be started together: command, environment, memory, and the rule behind each.

    Nothing is started. MODEL is a name from `llamafile-mgr list` or the path of a llamafile or GGUF. PORT
    and KEY_FILE stand for what is chosen when an engine starts.

    \b
    Examples:
      llamafile-mgr plan all-minilm-l6-v2
      llamafile-mgr plan --embed mxbai-embed-large-v1 --generate ./Qwen3.5-2B-Q8_0.llamafile
      llamafile-mgr plan all-minilm-l6-v2 --engine /opt/llama.cpp/bin/llama-server
      llamafile-mgr doctor --json > server.json    (on the other computer)
      llamafile-mgr plan all-minilm-l6-v2 --machine server.json --json
    """
    from llamafile_mgr.launching.local_plans import make_plans
    from llamafile_mgr.launching.unmatched import unmatched_settings
    from llamafile_mgr.machine.detection import detect_machine
    from llamafile_mgr.machine.snapshot import read_snapshot
    from llamafile_mgr.planner.rendering import joint_memory, plan_to_dict

    config = context.load_config({"engines.programs": engine})
    wanted = read_models(context, config.serve, "plan", roles, models)
    other = read_snapshot(snapshot) if snapshot is not None else None
    plans = make_plans(wanted, config, context.paths, other)
    for text in unmatched_settings(config, plans, context.paths):
        click.echo(f"warning: {text}", err=True)
    memory = joint_memory(plans, other or detect_machine())
    if as_json:
        print_json({"plans": [plan_to_dict(plan) for plan in plans], "memory": memory})
        return
    for plan in plans:
        _print_plan(plan)
    on_gpus = f", {format_bytes(memory['needed_on_gpus'])} of GPU memory" if memory["needed_on_gpus"] else ""
    print_line(
        f"together: {format_bytes(memory['needed'])} of main memory{on_gpus};"
        f" {format_bytes(memory['usable_now'])} are free of {format_bytes(memory['machine'])}"
    )


def _print_plan(plan: Plan) -> None:
    from llamafile_mgr.planner.rendering import describe_command

    print_line(f"{plan.name} ({plan.role.value}, {plan.family.value}, on {plan.device})")
    rows = [(reason.setting, reason.value, reason.why) for reason in plan.reasons]
    print_line(format_table(("SETTING", "VALUE", "WHY"), rows))
    for warning in plan.warnings:
        print_line(f"warning: {warning}")
    if plan.replicas == 0:
        print_line("command: none, remotes serve this model\n")
        return
    times = f" ({plan.replicas} times)" if plan.replicas > 1 else ""
    print_line(f"command{times}: {shlex.join(describe_command(plan))}")
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(plan.environment.items()))
    print_line(f"environment: {settings}\n")
