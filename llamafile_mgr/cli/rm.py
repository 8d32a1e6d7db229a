"""``rm``: remove names from the store."""

from __future__ import annotations

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_stored
from llamafile_mgr.cli.output import format_bytes, print_result


@click.command(name="rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_stored)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, names: tuple[str, ...], as_json: bool) -> None:
    """Remove names from the store; a file goes with its last name.

    A file that a running serve uses is not removed.

    \b
    Examples:
      llamafile-mgr rm mxbai-embed-large-v1
      llamafile-mgr rm sfr-embedding-mistral:gguf-q8_0 llamafile-0.9.3
    """
    from llamafile_mgr.store import Store

    store = Store(context.paths.store)
    # All or nothing as far as the names go: a wrong one is found before the first is removed.
    chosen = [store.find(name, damaged_too=True) for name in names]
    removals = [store.remove(entry.name) for entry in {entry.name: entry for entry in chosen}.values()]
    said = [f"removed {', '.join(one.names)} ({format_bytes(one.freed_bytes)} freed)" for one in removals]
    print_result(removals, "\n".join(said), as_json=as_json)
