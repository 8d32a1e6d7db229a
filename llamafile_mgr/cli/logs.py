"""``logs``: what a model's engines print."""

from __future__ import annotations

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_stored
from llamafile_mgr.cli.output import print_json_line, print_line
from llamafile_mgr.cli.running import ask_running, port_option


@click.command("logs")
@click.argument("model", shell_complete=complete_stored)
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come, until Ctrl-C.")
@port_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def command(context: Context, model: str, follow: bool, port: int | None, as_json: bool) -> None:
    """Print the last lines of MODEL's engines in the running serve.

    \b
    Examples:
      llamafile-mgr logs all-minilm-l6-v2
      llamafile-mgr logs -f all-minilm-l6-v2
    """
    request = {"command": "logs", "model": model, "follow": follow}
    for answer in ask_running(context, port, request, seconds=None):
        if as_json:
            print_json_line({"engine": answer["engine"], "line": answer["line"]})
        else:
            print_line(f"{answer['engine']}: {answer['line']}")
