"""``list``: what is in the store."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import count_of, format_bytes, format_table, print_json, print_line


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, as_json: bool) -> None:
    """List what is in the store, with its size, role, licence and state.

    \b
    Examples:
      llamafile-mgr list
      llamafile-mgr list --json
    """
    from llamafile_mgr.store import Store
    from llamafile_mgr.store.records import artifact_json

    entries = Store(context.paths.store).entries()
    if as_json:
        print_json([artifact_json(entry) for entry in entries])
        return
    if not entries:
        from llamafile_mgr.cli.guidance import how_to_pull

        print_line(f"the store is empty; next: {how_to_pull()}")
        return
    rows = [
        (
            entry.name,
            format_bytes(entry.size),
            entry.kind.value,
            entry.role.value if entry.role else "-",
            entry.licence or "-",
            entry.trust.value,
            "DAMAGED" if entry.damaged else _ago(entry.verified_at),
            _ago(entry.last_used_at),
        )
        for entry in entries
    ]
    headers = ("NAME", "SIZE", "KIND", "ROLE", "LICENCE", "TRUST", "VERIFIED", "USED")
    print_line(format_table(headers, rows))
    total = sum({entry.digest: entry.size for entry in entries}.values())
    print_line(f"{count_of(len(entries), 'name')}, {format_bytes(total)} on the disk")


def _ago(when: datetime | None) -> str:
    if when is None:
        return "never"
    seconds = max(0.0, (datetime.now(UTC) - when).total_seconds())
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
