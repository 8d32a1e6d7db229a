"""``load``: start the engines of a model that is unloaded or has failed."""

from __future__ import annotations

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_stored
from llamafile_mgr.cli.running import change_model, port_option


@click.command("load")
@click.argument("model", shell_complete=complete_stored)
@port_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, model: str, port: int | None, as_json: bool) -> None:
    """Start the engines of MODEL in the running serve: it was unloaded, or it failed.

    \b
    Examples:
      llamafile-mgr load all-minilm-l6-v2
    """
    change_model(context, port, {"command": "load", "model": model}, "loaded", as_json=as_json)
