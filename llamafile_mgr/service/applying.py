"""Carrying out: files are compared and written whole, and the manager's own programs are run."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from llamafile_mgr.errors import NotFoundError, ServiceError
from llamafile_mgr.files import write_atomically
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.service.definition import Scope, Steps, UnitFile, lines_of
from llamafile_mgr.service.finding import ServiceHost

_BOOTED = Path("/run/systemd/system")


class Change(StrEnum):
    """What writing a file would do."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file and what becomes of it. ``lines``: what is taken out (``-``) and put in (``+``)."""

    file: UnitFile
    change: Change
    lines: tuple[str, ...] = ()


def compare(file: UnitFile) -> FileChange:
    """Return what writing a file would change. Raises ServiceError when it cannot be read."""
    try:
        before = file.path.read_bytes()
    except FileNotFoundError:
        return FileChange(file, Change.NEW)
    except OSError as error:
        raise ServiceError(f"cannot read {file.path}: {error.strerror}") from error
    if before == file.data:
        return FileChange(file, Change.UNCHANGED)
    lines = difflib.unified_diff(lines_of(before), file.lines, n=0, lineterm="")
    return FileChange(
        file, Change.CHANGED, tuple(line for line in lines if line[:2] not in ("--", "++", "@@"))
    )


def make_directories(target: ServiceHost) -> None:
    """Make the directories that the service writes to, for its user alone.

    Raises:
        StoreError: one of them cannot be made.
    """
    paths = target.paths
    for path in (paths.store, paths.state, paths.cache, paths.engine_home / "tmp", paths.logs):
        _own_from(path, target)
    if target.scope is Scope.SYSTEM:
        _own_from(paths.runtime, target)


def _own_from(path: Path, target: ServiceHost) -> None:
    """Make ``path``; what did not exist before becomes the service user's."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    if not missing and target.user is None:
        return
    if missing:
        ensure_private_dir(path)
    if target.user is not None and sys.platform != "win32":
        for each in missing:
            os.chown(each, target.user_id, target.group_id)


def apply_install(
    steps: Steps,
    changes: Sequence[FileChange],
    run: Callable[[Sequence[str]], None],
    *,
    dry_run: bool = False,
) -> None:
    """Write what is new or changed and run the commands that belong to it; a dry run writes nothing.

    Raises:
        ServiceError: a file cannot be written, or a command fails.
    """
    if any(each.change is Change.CHANGED for each in changes):
        for command in steps.changed:
            run(command)
    wanted = [each.file for each in changes if each.change is not Change.UNCHANGED]
    for file in () if dry_run else wanted:
        _write(file)
    for command in (*(steps.written if wanted else ()), *steps.ensure):
        run(command)


def apply_uninstall(
    steps: Steps, run: Callable[[Sequence[str]], None], *, dry_run: bool = False
) -> list[Path]:
    """Stop and remove it; return its files, none when it was not installed. A dry run removes nothing.

    Raises:
        ServiceError: a command fails, or a file cannot be removed.
    """
    found = [file.path for file in steps.files if file.path.exists()]
    if not found:
        return []
    for command in steps.before:
        run(command)
    try:
        for path in () if dry_run else found:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ServiceError(f"cannot remove {error.filename}: {error.strerror}") from error
    for command in steps.removed:
        run(command)
    return found


def check_installed(name: str, files: Sequence[UnitFile]) -> None:
    """Raise NotFoundError when this service is not installed."""
    if not any(file.path.exists() for file in files):
        raise NotFoundError(
            f"there is no service {name}",
            cause=f"{files[0].path} does not exist",
            hint="install it: llamafile-mgr service install --embed MODEL",
        )


def _write(file: UnitFile) -> None:
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file.path, file.data, mode=0o644)
    except PermissionError as error:
        raise ServiceError(
            f"may not write {file.path}", hint="a system service needs root: sudo, or install with --user"
        ) from error
    except OSError as error:
        raise ServiceError(f"cannot write {file.path}: {error.strerror}") from error


def run_command(argv: Sequence[str]) -> str:
    """Run one of the manager's programs and return what it printed.

    Raises:
        ServiceError: there is no such manager here, or it refuses.
    """
    if shutil.which(argv[0]) is None or (argv[0] == "systemctl" and not _BOOTED.is_dir()):
        manager = {"launchctl": "launchd", "schtasks": "windows"}.get(argv[0], "systemd")
        raise ServiceError(
            f"{manager} does not run this system",
            cause="containers and WSL often have another first process",
            hint="keep `llamafile-mgr serve` running with what this system has; --dry-run prints the files",
        )
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return result.stdout
    said = (result.stderr or result.stdout).strip()
    raise ServiceError(
        f"`{' '.join(argv)}` failed: {said.splitlines()[0] if said else f'exit code {result.returncode}'}",
        cause=" ".join(said.splitlines()[1:]) or None,
        hint=_hint(said),
    )


def _hint(said: str) -> str | None:
    lowered = said.lower()
    if "connect to bus" in lowered or "user scope bus" in lowered:
        return (
            "the user's service manager is not running: log in as that user (not with su or sudo), "
            "or let it run without a login: loginctl enable-linger USER"
        )
    if "access denied" in lowered or "authentication" in lowered or "permission denied" in lowered:
        return "a system service needs root: sudo, or use --user"
    return None
