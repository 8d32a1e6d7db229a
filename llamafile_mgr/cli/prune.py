"""``prune``: give back the room of what is not needed."""

from __future__ import annotations

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import format_bytes, format_table, print_json, print_line


@click.command(name="prune")
@click.option("--all", "every_part", is_flag=True, help="Remove young unfinished downloads too.")
@click.option("--dry-run", is_flag=True, help="Show what would go; remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, every_part: bool, dry_run: bool, as_json: bool) -> None:
    """Remove files without a name, unfinished downloads older than two weeks, and leftovers.

    \b
    Examples:
      llamafile-mgr prune --dry-run
      llamafile-mgr prune --all
    """
    from llamafile_mgr.store import Store
    from llamafile_mgr.store.pruning import prune

    waste = prune(Store(context.paths.store), every_part=every_part, dry_run=dry_run)
    if as_json:
        print_json(waste)
        return
    if waste:
        rows = [(one.what, format_bytes(one.size), one.path.name) for one in waste]
        print_line(format_table(("WHAT", "SIZE", "FILE"), rows))
    freed = format_bytes(sum(one.size for one in waste))
    print_line(f"{freed} would be freed" if dry_run else f"{freed} freed")
