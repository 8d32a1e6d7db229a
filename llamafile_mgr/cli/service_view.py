"""What ``service`` says of the files that it writes and the commands that it runs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamafile_mgr.cli.output import print_line

if TYPE_CHECKING:
    from llamafile_mgr.service.applying import FileChange
    from llamafile_mgr.service.definition import Definition

__all__ = ["describe", "print_after", "print_changes", "print_commands"]


def describe(changes: Sequence[FileChange]) -> list[dict[str, Any]]:
    """Return what becomes of the files, for JSON."""
    return [{"path": str(c.file.path), "change": c.change.value, "lines": list(c.lines)} for c in changes]


def print_changes(changes: Sequence[FileChange], *, dry_run: bool) -> None:
    """Say what is written; of a dry run also every new line."""
    for each in changes:
        print_line(f"{each.change.value}: {each.file.path}")
        for line in each.lines:
            print_line(f"  {line}")
        for line in each.file.lines if dry_run and each.change.value == "new" else ():
            print_line(f"  {line}".rstrip())


def print_commands(commands: Sequence[Sequence[str]], *, dry_run: bool) -> None:
    """Say what is run."""
    for argv in commands:
        print_line(f"{'would run' if dry_run else 'ran'}: {subprocess.list2cmdline(argv)}")


def print_after(definition: Definition) -> None:
    """Say where the service listens, and what else its user may want."""
    where = " and ".join(definition.addresses)
    print_line(f"{'the first call starts it' if definition.on_demand else 'running'}: {where}")
    linger = Path("/var/lib/systemd/linger")
    if definition.user is None and linger.parent.is_dir() and not (linger / Path.home().name).exists():
        print_line("it ends when you log out; to keep it running: loginctl enable-linger")
