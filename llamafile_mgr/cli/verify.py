"""``verify``: read stored files again, find damage and mend it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_stored
from llamafile_mgr.cli.output import format_bytes, print_json, print_line
from llamafile_mgr.errors import IntegrityError

if TYPE_CHECKING:
    from llamafile_mgr.store.verification import Verification


@click.command(name="verify")
@click.argument("names", nargs=-1, metavar="[NAME...]", shell_complete=complete_stored)
@click.option("--repair", "mend", is_flag=True, help="Fetch the damaged blocks again, and only those.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.pass_obj
def command(context: Context, names: tuple[str, ...], mend: bool, as_json: bool, quiet: bool) -> None:
    """Read stored files again and compare them with their digests; without names, all of them.

    A damaged file can no longer be run until it is mended. The exit code tells whether all is well. With
    --repair --json the list comes at the end and says of each file whether it was mended.

    \b
    Examples:
      llamafile-mgr verify
      llamafile-mgr verify --repair mxbai-embed-large-v1
    """
    from llamafile_mgr.cli.progress import make_display
    from llamafile_mgr.cli.pull_runs import repair_file
    from llamafile_mgr.store import Store
    from llamafile_mgr.store.verification import verify

    store = Store(context.paths.store)
    entries = [store.find(name, damaged_too=True) for name in names] if names else store.entries()
    results: list[Verification] = []
    for entry in {entry.digest: entry for entry in entries}.values():
        result = verify(store, entry)
        results.append(result)
        if not as_json and not quiet:
            print_line(_describe(result))
    damaged = [result for result in results if not result.sound]
    repaired: list[str] = []
    try:
        if damaged and mend:
            config = context.load_config().download
            with make_display(as_json=False, quiet=quiet) as display:
                for one in damaged:
                    repair_file(one.entry, one.damage, store, config, display)
                    repaired.append(one.entry.digest)
    finally:
        if as_json:
            print_json([_json(result, repaired) for result in results])
    if damaged and not mend:
        listed = ", ".join(one.entry.name for one in damaged)
        raise IntegrityError(
            f"damaged: {listed}", hint=f"llamafile-mgr verify --repair {damaged[0].entry.name}"
        )


def _describe(result: Verification) -> str:
    if result.sound:
        return f"{result.entry.name}: sound ({format_bytes(result.entry.size)})"
    if result.damage is None:
        return f"{result.entry.name}: DAMAGED; where is not known, there are no block hashes"
    wrong = sum(end - start for start, end in result.damage)
    return f"{result.entry.name}: DAMAGED in {len(result.damage)} blocks ({format_bytes(wrong)})"


def _json(result: Verification, repaired: Collection[str]) -> dict[str, object]:
    return {
        "name": result.entry.name,
        "sound": result.sound,
        "digest": result.entry.digest,
        "found": result.found,
        "damage": None if result.damage is None else [list(one) for one in result.damage],
        "repaired": result.entry.digest in repaired,
    }
