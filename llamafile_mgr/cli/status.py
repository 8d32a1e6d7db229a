"""``status``: what a running ``serve`` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.numbers import FiniteRange
from llamafile_mgr.cli.output import format_table, print_json, print_json_line, print_line
from llamafile_mgr.cli.running import ask_running, port_option


@click.command("status")
@port_option
@click.option("--watch", "watched", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=FiniteRange(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often with --watch.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch one line each time.")
@click.pass_obj
def command(context: Context, port: int | None, watched: bool, interval: float, as_json: bool) -> None:
    """Show the models of the running serve and their engines.

    Below each engine stand why it last died and when it is started next, what was changed to make it start,
    whether it is slow (below half of the best throughput that it has shown), where and how it runs, what of
    that is not as planned and why, and its latest states with the time of each; above the engines, what the
    model's settings accept that is refused otherwise. WORK/S are tokens embedded, or calls of other kinds,
    per second of work. --json has up to 32 states, and the reason for every launch setting.

    \b
    Examples:
      llamafile-mgr status
      llamafile-mgr status --json
      llamafile-mgr status --watch --interval 5
      llamafile-mgr status --port 8081
    """
    if watched:
        from llamafile_mgr.cli.refreshing import watch

        watch(lambda: _show(context, port, print_json_line if as_json else None), interval, as_json=as_json)
    else:
        _show(context, port, print_json if as_json else None)


def _show(context: Context, port: int | None, print_value: Callable[[object], None] | None) -> None:
    status = next(ask_running(context, port, {"command": "status"}, seconds=10.0))
    if print_value is not None:
        print_value(status)
        return
    print_line(f"{status['url']}, up {_duration(status['uptime_seconds'])}, version {status['version']}")
    if status.get("needs_restart"):
        print_line(f"only a restart applies {', '.join(status['needs_restart'])}")
    for model in status["models"]:
        print_line()
        print_line(f"{model['model']} ({model['role']}, {model['family']}): {_summary(model)}")
        for text in model["accepted"]:
            print_line(f"  accepted: {text}")
        if model["engines"]:
            print_line(format_table(_HEADERS, (_row(engine) for engine in model["engines"])))
        for engine in model["engines"]:
            for label, text in _details(engine):
                print_line(f"  {engine['name']}: {label}: {text}")


#: States of one engine that a person is shown.
_SHOWN_STATES = 5


def _details(engine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what does not fit the table, each with its label."""
    remote = engine["remote"]
    if remote:
        yield "remote", remote
    if engine["cause"]:
        alive = engine["state"] in ("ready", "draining")
        end = "lost" if remote else "died"
        yield f"{end} last because" if alive else f"{end} because", engine["cause"]
    if engine["retry_seconds"] is not None:
        yield "next try" if remote else "next start", f"in {_duration(engine['retry_seconds'])}"
    for step in engine["steps"]:
        yield "changed", step
    if engine["slow"]:
        yield "slow", f"{100 * engine['speed']:.0f} % of the best throughput that it has shown"
    if engine["actual"]:
        yield "runs", _describe_run(engine["actual"])
        yield "planned", _describe_run(engine["planned"])
    for text in engine["deviations"]:
        yield "not as planned", text
    shown = engine["transitions"][-_SHOWN_STATES:]
    if shown:
        yield "states", ", ".join(f"{_clock(each['at'])} {each['state']}" for each in shown)


def _describe_run(facts: dict[str, Any]) -> str:
    """Return where and how an engine runs, as far as something tells."""
    layers, memory = facts["layers"], facts["gpu_bytes"]
    parts = [
        facts["device"] and f"on {facts['device']}",
        layers and f"{layers[0]} of {layers[1]} layers offloaded",
        memory and f"{memory / 1e9:.2f} GB of GPU memory",
        facts["context"] and f"{facts['context']} tokens a slot",
        facts["slots"] and f"{facts['slots']} slots",
        facts["batch"] and f"batches of {facts['batch']}",
    ]
    return ", ".join(part for part in parts if part) or "nothing tells"


def _clock(at: float) -> str:
    """Return the local time of a moment, with its date when that is not today."""
    then, today = time.localtime(at), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", then)


_HEADERS = ("ENGINE", "STATE", "FOR", "PID", "PORT", "RESTARTS", "IN FLIGHT", "SERVED", "WORK/S")


def _row(engine: dict[str, Any]) -> tuple[str, ...]:
    return (
        engine["name"],
        engine["state"],
        _duration(engine["age_seconds"]),
        str(engine["pid"] or "-"),
        str(engine["port"] or "-"),
        str(engine["restarts"]),
        str(engine["in_flight"]),
        str(engine["served"]),
        "-" if engine["rate"] is None else f"{engine['rate']:.0f}",
    )


def _summary(model: dict[str, Any]) -> str:
    if model["ready"]:
        return "ready" + (f", {model['waiting']} waiting" if model["waiting"] else "")
    if not model["loaded"]:
        return "unloaded; the next call starts it"
    return f"not ready, {model['waiting']} waiting"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
