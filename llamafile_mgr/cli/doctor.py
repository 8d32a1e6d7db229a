"""``doctor``: what this machine is, what is wrong with it, and how to mend it."""

from __future__ import annotations

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import print_json, print_line, styled

_MARKS = {"pass": ("pass", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the machine snapshot and the checks as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print only what warns or fails.")
@click.option("--port", type=click.IntRange(0, 65535), help="Check this port of serve; 0 checks none.")
@click.pass_context
def command(ctx: click.Context, as_json: bool, quiet: bool, port: int | None) -> None:
    """Check this machine, its engines and the models of the settings: pass, warn or fail, and the fix.

    Where serve runs, its engines are compared with their plans: whether the GPU is used, and with how many
    layers.

    Exit code 0 when nothing fails (warnings are allowed), 10 when something does. The file that --json
    writes can be read by plan --machine and recommend --machine on another computer.

    \b
    Examples:
      llamafile-mgr doctor
      llamafile-mgr doctor --quiet && llamafile-mgr serve
      llamafile-mgr doctor --json > server.json
      llamafile-mgr recommend --machine server.json
    """
    from llamafile_mgr.cli.running import running_models
    from llamafile_mgr.errors import PlanError
    from llamafile_mgr.launching.installation import check_installation
    from llamafile_mgr.machine.check_engines import check_running
    from llamafile_mgr.machine.checks import diagnose, failures
    from llamafile_mgr.machine.detection import detect_machine
    from llamafile_mgr.machine.launch import launch_facts
    from llamafile_mgr.machine.snapshot import machine_to_dict

    context = ctx.ensure_object(Context)
    machine = detect_machine()
    config = context.load_config({"serve.port": port})
    engines, installed = check_installation(config, context.paths)
    checks = (*diagnose(machine, launch_facts(context.paths, port=config.serve.port)), *installed)
    checks += check_running(running_models(context))
    bad = failures(checks)
    if as_json:
        print_json({"ok": not bad, "machine": machine_to_dict(machine), "engines": engines, "checks": checks})
    else:
        for check in checks:
            if quiet and check.outcome.value == "pass":
                continue
            word, colour = _MARKS[check.outcome.value]
            print_line(f"{styled(word, colour=colour)}  {check.name}: {check.finding}")
            if check.consequence:
                print_line(f"      why it matters: {check.consequence}")
            if check.fix:
                print_line(f"      fix: {check.fix}")
        if not quiet or bad:
            print_line(_summary(len(checks), sum(c.outcome.value == "warn" for c in checks), len(bad)))
    ctx.exit(PlanError.exit_code if bad else 0)


def _summary(total: int, warnings: int, failures: int) -> str:
    words = [f"{total} checks"]
    words.append("nothing fails" if not failures else f"{failures} failed")
    words.append(f"{warnings} to look at" if warnings else "no warnings")
    return ", ".join(words)
