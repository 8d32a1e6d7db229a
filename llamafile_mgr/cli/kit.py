"""``kit``: carry models to a machine without internet."""

from __future__ import annotations

from pathlib import Path

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_stored
from llamafile_mgr.cli.output import count_of, format_bytes, print_json, print_line, print_result


@click.group(name="kit")
def command() -> None:
    """Pack models and runtimes into one file for a machine without internet, and unpack them there.

    \b
    Examples:
      llamafile-mgr kit export office.kit all-minilm-l6-v2 llamafile-0.10.5
      llamafile-mgr kit import office.kit
    """


@command.command(name="export")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1, metavar="[NAME...]", shell_complete=complete_stored)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def export_command(context: Context, file: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Write names from the store, or all of them, into a kit; every file is checked on the way.

    \b
    Examples:
      llamafile-mgr kit export office.kit
      llamafile-mgr kit export small.kit all-minilm-l6-v2
    """
    from llamafile_mgr.errors import NotFoundError
    from llamafile_mgr.store import Store
    from llamafile_mgr.store.kit_archives import export_kit

    store = Store(context.paths.store)
    entries = [store.find(name) for name in names] if names else store.entries()
    if not entries:
        from llamafile_mgr.cli.guidance import how_to_pull

        raise NotFoundError("the store is empty", hint=how_to_pull())
    size = export_kit(entries, file)
    value = {"kit": file, "size": size, "names": [entry.name for entry in entries]}
    print_result(value, f"{file}: {count_of(len(entries), 'name')}, {format_bytes(size)}", as_json=as_json)


@command.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def import_command(context: Context, file: Path, as_json: bool) -> None:
    """Take everything that a kit holds into the store, after checking all of it.

    \b
    Examples:
      llamafile-mgr kit import office.kit
    """
    from llamafile_mgr.catalog import load_catalog
    from llamafile_mgr.store import Store
    from llamafile_mgr.store.kit_archives import import_kit
    from llamafile_mgr.store.records import artifact_json

    entries = import_kit(file, Store(context.paths.store), load_catalog())
    if as_json:
        print_json([artifact_json(entry) for entry in entries])
        return
    for entry in entries:
        print_line(f"{entry.name}: {format_bytes(entry.size)}")
