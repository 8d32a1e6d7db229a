"""What ``service`` says of the files that it writes and the commands that it runs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamafile_mgr.cli.output import print_json, print_line

if TYPE_CHECKING:
    from llamafile_mgr.service.applying import FileChange
    from llamafile_mgr.service.definition import Definition, Steps

__all__ = ["describe", "print_after", "print_changes", "print_done"]


def describe(changes: Sequence[FileChange], steps: Steps) -> dict[str, Any]:
    """Return what installing writes and runs, for JSON."""
    return {
        "files": [
            {"path": str(c.file.path), "change": c.change.value, "lines": list(c.lines)} for c in changes
        ],
        "commands": [list(argv) for argv in _commands(changes, steps)],
    }


def _commands(changes: Sequence[FileChange], steps: Steps) -> list[tuple[str, ...]]:
    """Return what installing runs, in order."""
    kinds = {each.change.value for each in changes}
    changed = steps.changed if "changed" in kinds else ()
    return [*changed, *(steps.written if kinds != {"unchanged"} else ()), *steps.ensure]


def print_changes(changes: Sequence[FileChange], steps: Steps, *, dry_run: bool) -> None:
    """Say what is written and run; of a dry run also every new line."""
    for each in changes:
        print_line(f"{each.change.value}: {each.file.path}")
        for line in each.lines:
            print_line(f"  {line}")
        if dry_run and each.change.value == "new":
            encoding = "utf-16" if each.file.data.startswith(b"\xff\xfe") else "utf-8"
            for line in each.file.data.decode(encoding).splitlines():
                print_line(f"  {line}".rstrip())
    for argv in _commands(changes, steps):
        print_line(f"{'would run' if dry_run else 'ran'}: {subprocess.list2cmdline(argv)}")


def print_after(definition: Definition, *, dry_run: bool) -> None:
    """Say where the service listens, and what else its user may want."""
    if dry_run:
        return
    where = " and ".join(definition.addresses)
    print_line(f"{'the first call starts it' if definition.on_demand else 'running'}: {where}")
    linger = Path("/var/lib/systemd/linger")
    if definition.user is None and linger.parent.is_dir() and not (linger / Path.home().name).exists():
        print_line("it ends when you log out; to keep it running: loginctl enable-linger")


def print_done(name: str, done: str, *, as_json: bool) -> None:
    """Say that something was done to the service."""
    if as_json:
        print_json({"service": name, "done": done})
    else:
        print_line(f"{done} {name}")
