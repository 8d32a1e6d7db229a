"""``ps``: the engines of a running ``serve``, one a line."""

from __future__ import annotations

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import format_table, print_json, print_line
from llamafile_mgr.cli.running import ask_running, port_option


@click.command("ps")
@port_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, port: int | None, as_json: bool) -> None:
    """List the engines of the running serve.

    \b
    Examples:
      llamafile-mgr ps
      llamafile-mgr ps --json
    """
    status = next(ask_running(context, port, {"command": "status"}, seconds=10.0))
    engines = [
        {"model": model["model"], "role": model["role"]}
        | {key: engine[key] for key in ("name", "state", "pid", "port", "restarts", "in_flight")}
        for model in status["models"]
        for engine in model["engines"]
    ]
    if as_json:
        print_json(engines)
        return
    headers = ("PID", "MODEL", "ROLE", "ENGINE", "STATE", "PORT")
    keys = ("pid", "model", "role", "name", "state", "port")
    print_line(format_table(headers, ([str(engine[key] or "-") for key in keys] for engine in engines)))
