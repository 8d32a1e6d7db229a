"""``unload``: end the engines of a model; the next call starts them again."""

from __future__ import annotations

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_stored
from llamafile_mgr.cli.running import change_model, port_option


@click.command("unload")
@click.argument("model", shell_complete=complete_stored)
@port_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, model: str, port: int | None, as_json: bool) -> None:
    """End the engines of MODEL once their calls are done; the next call starts them again.

    \b
    Examples:
      llamafile-mgr unload all-minilm-l6-v2
    """
    change_model(context, port, {"command": "unload", "model": model}, "unloaded", as_json=as_json)
