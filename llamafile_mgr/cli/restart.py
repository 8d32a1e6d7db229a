"""``restart``: new engines for a model, without a failed call."""

from __future__ import annotations

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_stored
from llamafile_mgr.cli.running import change_model, port_option


@click.command("restart")
@click.argument("model", shell_complete=complete_stored)
@click.option("--new-vector-space", is_flag=True, help="Allow vectors that do not fit those made before.")
@port_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, model: str, new_vector_space: bool, port: int | None, as_json: bool) -> None:
    """Replace the engines of MODEL: each new one is ready and checked before its old one drains.

    The model is planned again first, so that a new file or changed settings take effect. A change that
    would make vectors unfit for an existing index is refused unless it is allowed.

    \b
    Examples:
      llamafile-mgr restart mxbai-embed-large-v1
    """
    request = {"command": "restart", "model": model, "new_vector_space": new_vector_space}
    change_model(context, port, request, "restarted", as_json=as_json, seconds=None)
