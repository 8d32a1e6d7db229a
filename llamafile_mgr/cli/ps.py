"""``ps``: the engines of a running ``serve``, one a line."""

from __future__ import annotations

from typing import Any

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import format_table, print_json, print_line
from llamafile_mgr.cli.running import ask_running, port_option

_KEYS = (
    *("name", "state", "pid", "port", "restarts", "in_flight"),
    *("planned", "actual", "deviations"),
)


@click.command("ps")
@port_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, port: int | None, as_json: bool) -> None:
    """List the engines of the running serve.

    DEVICE and LAYERS are what an engine says of itself once it is ready, - where nothing tells; what was
    planned stands in brackets where it differs. status tells why.

    \b
    Examples:
      llamafile-mgr ps
      llamafile-mgr ps --json
    """
    status = next(ask_running(context, port, {"command": "status"}, seconds=10.0))
    engines = [
        {"model": model["model"], "role": model["role"]} | {key: engine[key] for key in _KEYS}
        for model in status["models"]
        for engine in model["engines"]
    ]
    if as_json:
        print_json(engines)
        return
    headers = ("PID", "MODEL", "ROLE", "ENGINE", "STATE", "PORT", "DEVICE", "LAYERS")
    keys = ("pid", "model", "role", "name", "state", "port")
    rows = ([*(str(engine[key] or "-") for key in keys), *_placed(engine)] for engine in engines)
    print_line(format_table(headers, rows))


def _placed(engine: dict[str, Any]) -> tuple[str, str]:
    """Return where an engine computes, and how many layers lie on GPUs."""
    planned, actual = engine["planned"] or {}, engine["actual"] or {}
    device, layers = actual.get("device") or "-", actual.get("layers")
    if engine["deviations"] and planned.get("device") != "cpu" and device == "cpu":
        device += f" ({planned['device']})"
    shown = "-" if layers is None else f"{layers[0]} of {layers[1]}"
    if layers and planned.get("layers") and layers[0] < planned["layers"][0]:
        shown += f" ({planned['layers'][0]})"
    return device, shown
