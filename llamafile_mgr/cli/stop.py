"""``stop``: end a running ``serve``."""

from __future__ import annotations

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import print_result
from llamafile_mgr.cli.running import ask_running, port_option


@click.command("stop")
@port_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, port: int | None, as_json: bool) -> None:
    """Stop the running serve: accepted calls are answered, then its engines end.

    \b
    Examples:
      llamafile-mgr stop
    """
    list(ask_running(context, port, {"command": "stop"}, seconds=10.0))
    print_result({"done": "stopping"}, "stopping", as_json=as_json)
