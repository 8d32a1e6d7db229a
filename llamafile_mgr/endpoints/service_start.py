"""Starting a ``serve`` in the background, and telling why when it does not come up."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from llamafile_mgr.endpoints.leasing import Patience, Report
from llamafile_mgr.endpoints.sharing_terms import ServiceChoice
from llamafile_mgr.errors import EngineStartError, Error, StoreError, UsageError
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.supervisor.asking import rebuild_error

Found = TypeVar("Found")

_POLL_SECONDS = 0.05
_SHOWN_LINES = 10


def start_service(choice: ServiceChoice, find: Callable[[], Found | None], report: Report) -> Found:
    """Start a ``serve`` that ends with its last user, and return what ``find`` finds when it can be asked.

    Raises:
        Error: what the service said when it ended instead.
        StoreError: its log cannot be written.
        UsageError: this system has no control sockets.
    """
    if os.name != "posix":
        raise UsageError("services cannot be shared on this system", hint="run llamafile-mgr serve")
    log = ensure_private_dir(choice.paths.logs) / f"exec-{choice.key}.log"
    ours, its = socket.socketpair()
    # Nothing is ever sent: each side sees by the end of the stream that the other has gone.
    with ours:
        with its:
            _spawn(choice, log, its.fileno())
        patience = Patience(report)
        while not select.select([ours], [], [], _POLL_SECONDS)[0]:
            if (found := find()) is not None:
                return found
            patience.tell("still looking at the models")
    # It may have become ready, been stopped and ended between two looks; then its log tells of no failure.
    raise _read_failure(log)


def _spawn(choice: ServiceChoice, log: Path, link: int) -> None:
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "wb") as output:
            # What was started ends as soon as the service is a process of its own.
            subprocess.run(
                _argv(choice), stdin=link, stdout=output, stderr=output, check=False, env=_environment()
            )
    except OSError as error:
        raise StoreError(f"cannot start a serve that logs to {log}: {error.strerror}") from error


def _argv(choice: ServiceChoice) -> list[str]:
    argv = [sys.executable, "-m", "llamafile_mgr"]
    if choice.config_file is not None:
        argv += ["--config", str(choice.config_file.absolute())]
    argv += ["serve", "--json", "--leased", choice.key, "--port", str(choice.port or 0)]
    return [*argv, *choice.wanted.arguments()]


def _environment() -> dict[str, str]:
    """Return our environment; a package that is not installed is found again where we found it."""
    root = Path(__file__).parent.parent.parent
    if root.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    known = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), known] if known else [str(root)])}


def _read_failure(log: Path) -> Error:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return StoreError(f"cannot read {log}: {error.strerror}")
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "failed":
            return rebuild_error(event)
    tail = " | ".join(line.strip() for line in lines[-_SHOWN_LINES:])
    return EngineStartError(
        "the serve ended before it could be asked",
        cause=tail or "its log is empty, as on a full disk",
        hint=f"its log: {log}",
    )
