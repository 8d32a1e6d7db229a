"""What one ``serve`` leaves on the disk while it runs: its engines' keys, and who they are.

``RUNTIME/serve-PID/`` holds a key file per engine and ``engines.json``. A later ``serve`` finds the
directories of dead ones, ends the engines that survived them (Linux kills them itself, other systems do not)
and removes the directory. A process counts as the one noted only when its start time agrees.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import signal
import threading
from pathlib import Path

from llamafile_mgr.files import store_errors, write_atomically
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.processes import is_running, start_of

_PREFIX = "serve-"
_ENGINES = "engines.json"


class Registry:
    """The directory of this process. Methods block on the disk and belong in threads."""

    def __init__(self, runtime: Path) -> None:
        self.directory = runtime / f"{_PREFIX}{os.getpid()}"
        self._engines: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def write_key(self, name: str) -> tuple[str, Path]:
        """Return a new API key and the file that holds it, readable by its owner alone.

        Raises:
            StoreError: the file cannot be written.
        """
        key = secrets.token_urlsafe(32)
        path = ensure_private_dir(self.directory) / f"{name}.key"
        with store_errors(path):
            write_atomically(path, f"{key}\n".encode("ascii"))
        return key, path

    def note_engine(self, name: str, pid: int) -> None:
        """Remember a running engine by its process id and start time."""
        started = start_of(pid)
        if started is not None:
            with self._lock:
                self._engines[name] = (pid, started)
                self._write()

    def forget_engine(self, name: str) -> None:
        """Forget an engine that has ended."""
        with self._lock:
            self._engines.pop(name, None)
            self._write()

    def remove(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write(self) -> None:
        path = ensure_private_dir(self.directory) / _ENGINES
        text = json.dumps({"started": start_of(os.getpid()), "engines": self._engines})
        with store_errors(path):
            write_atomically(path, text.encode("ascii"))


def reap_survivors(runtime: Path) -> list[int]:
    """End the engines whose ``serve`` is gone, remove what it left, and return their process ids."""
    ended: list[int] = []
    for directory in sorted(runtime.glob(f"{_PREFIX}*")):
        pid = directory.name.removeprefix(_PREFIX)
        if not pid.isascii() or not pid.isdigit() or int(pid) == os.getpid():
            continue
        manager, engines = _read_noted(directory / _ENGINES)
        if is_running(int(pid), manager):
            continue
        for engine, started in engines:
            if is_running(engine, started):
                _kill(engine)
                ended.append(engine)
        shutil.rmtree(directory, ignore_errors=True)
    return ended


def _read_noted(path: Path) -> tuple[float | None, list[tuple[int, float]]]:
    """Return when the manager and each of its engines started; nothing of a file that makes no sense."""
    try:
        noted = json.loads(path.read_text(encoding="ascii"))
        manager = noted["started"]
        engines = [(int(pid), float(started)) for pid, started in noted["engines"].values()]
        known = manager is None or math.isfinite(manager)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None, []
    return (manager, engines) if known and all(pid > 1 for pid, _ in engines) else (None, [])


def _kill(pid: int) -> None:
    import psutil

    with contextlib.suppress(OSError, psutil.Error):
        if os.name == "posix":
            os.killpg(pid, signal.SIGKILL)  # engines lead a process group of their own
        else:
            psutil.Process(pid).kill()
