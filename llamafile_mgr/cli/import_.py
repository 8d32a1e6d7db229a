"""``import``: take files that are on this computer into the store."""

from __future__ import annotations

from pathlib import Path

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import format_bytes, print_result


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", "as_name", help="Keep it under this name.")
@click.option("--sha256", help="The digest that it must have.")
@click.option("--link", is_flag=True, help="Share the file instead of copying it; it becomes read-only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(
    context: Context, file: Path, as_name: str | None, sha256: str | None, link: bool, as_json: bool
) -> None:
    """Take a llamafile or a GGUF of this computer into the store.

    Where the file system can share blocks between files (Btrfs, XFS) no room is used. A file whose
    digest the catalog pins gets the catalog's name.

    \b
    Examples:
      llamafile-mgr import ~/Downloads/mxbai-embed-large-v1-f16.llamafile
      llamafile-mgr import model.gguf --name my-model --link
    """
    from llamafile_mgr.catalog import load_catalog
    from llamafile_mgr.store import Store
    from llamafile_mgr.store.importing import Method, import_file
    from llamafile_mgr.store.layout import check_digest
    from llamafile_mgr.store.records import artifact_json

    entry, how = import_file(
        file,
        Store(context.paths.store),
        load_catalog(),
        name=as_name,
        sha256=check_digest(sha256.lower()) if sha256 else None,
        method=Method.LINK if link else Method.COPY,
    )
    known = "a file of the catalog" if entry.trust.value == "pinned" else "its digest was recorded"
    text = f"{entry.name}: {format_bytes(entry.size)} ({how}), {known}"
    print_result({**artifact_json(entry), "method": how}, text, as_json=as_json)
