"""Asking an engine what it is by running it: ``--version`` and ``--help``, each once per digest.

Only for files that the caller vouches for: a probe runs the program with the user's rights.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.engines.families import Family, family_of_version
from llamafile_mgr.errors import EngineError, NotFoundError, UsageError

__all__ = ["HelpProbe", "VersionProbe", "flags_in_help", "probe_help", "probe_version"]

#: The loader unpacks itself and virus scanners read the whole file at the first start.
DEFAULT_TIMEOUT_SECONDS = 30.0

_DIGEST = re.compile(r"[0-9a-f]{32,128}")
_VERSION = re.compile(r"\b([\w-]*llamafile[\w-]*|[\w-]+) v(\d{1,3}\.\d{1,3}\.\d{1,3})\b")
_MAX_OUTPUT_BYTES = 1 << 20
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH")
_FLAG = re.compile(
    r"""(-{1,2}[A-Za-z][\w-]*)                                  # the flag
        (?:[ =](?:\{[^}]*\}|\[[^\]]*\]|<[^>]*>|[^\s,\-][^\s,]*))?  # its value
        (\s*[,|/]\s*(?=-)|[ ]+(?=-))?                           # another name of it follows""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class VersionProbe:
    """What ``--version`` said: ``program`` such as ``llamafile``, ``version`` such as ``0.8.4``."""

    program: str
    version: str
    family: Family | None


@dataclass(frozen=True, slots=True)
class HelpProbe:
    """What ``--help`` lists: every flag, dashes included."""

    flags: frozenset[str]

    def knows(self, flag: str) -> bool:
        """Whether the engine lists this flag."""
        return flag in self.flags


def probe_version(
    path: Path,
    *,
    digest: str,
    cache_dir: Path,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> VersionProbe:
    """Run ``sh PATH --version``, or return what an earlier run with this ``digest`` said.

    ``environment`` replaces the scrubbed one (PATH and the locale; HOME and TMPDIR in ``cache_dir``).

    Raises:
        NotFoundError: there is no such file.
        EngineError: it cannot be started, does not answer in time, or names no version.
        UsageError: ``digest`` is none.
    """
    entry = _CacheEntry(cache_dir, digest, "version")
    cached = entry.load()
    if cached is None:
        output = _run(path, ["--version"], cache_dir, timeout_seconds, environment)
        found = _VERSION.search(output)
        if found is None:
            raise EngineError(f"{path} names no version when asked", cause=_tail(output))
        cached = {"program": found.group(1), "version": found.group(2)}
        entry.save(cached)
    program, version = str(cached.get("program")), str(cached.get("version"))
    return VersionProbe(program, version, family_of_version(version))


def probe_help(
    path: Path,
    *,
    digest: str,
    cache_dir: Path,
    arguments: tuple[str, ...] = ("--help",),
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> HelpProbe:
    """Run ``sh PATH --help``, or return what an earlier run with this ``digest`` said.

    ``arguments``: what to ask with; engines from 0.10.0 to 0.10.4 want ``--server --help``, llamafiler
    in 0.9 wants ``--server --v2 --help``.

    Raises:
        NotFoundError: there is no such file.
        EngineError: it cannot be started, does not answer in time, or lists no flag.
        UsageError: ``digest`` is none.
    """
    entry = _CacheEntry(cache_dir, digest, "help" + "".join(arguments))
    cached = entry.load()
    flags = frozenset(map(str, cached.get("flags", ()))) if cached else frozenset()
    if not flags:
        output = _run(path, list(arguments), cache_dir, timeout_seconds, environment)
        flags = flags_in_help(output)
        if not flags:
            raise EngineError(f"{path} lists no flags when asked for help", cause=_tail(output))
        entry.save({"flags": sorted(flags)})
    return HelpProbe(flags)


def flags_in_help(text: str) -> frozenset[str]:
    """Return the flags that a help text lists: those that start a line, with their other names.

    Flags that only a description mentions are left out: it may say that they are gone.
    """
    flags: set[str] = set()
    for line in text.splitlines():
        line = line.lstrip()
        at = 0
        while found := _FLAG.match(line, at):
            flags.add(found.group(1))
            at = found.end()
            if found.group(2) is None:
                break
    return frozenset(flags)


class _CacheEntry:
    """One answer on the disk; a missing or broken one is asked for again."""

    def __init__(self, folder: Path, digest: str, question: str) -> None:
        if not _DIGEST.fullmatch(digest):
            raise UsageError(f"{digest!r} is no digest")
        self._path = folder / f"{digest}.{re.sub(r'[^a-z0-9-]', '_', question)}.json"

    def load(self) -> dict[str, list[str] | str] | None:
        try:
            value = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def save(self, value: dict[str, list[str] | str]) -> None:
        """Write the answer in one step; failing to is no error, it is only asked again."""
        with contextlib.suppress(OSError):
            handle, name = tempfile.mkstemp(dir=self._path.parent, suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(value, file)
            os.replace(name, self._path)


def _run(
    path: Path,
    arguments: list[str],
    folder: Path,
    timeout_seconds: float,
    environment: Mapping[str, str] | None,
) -> str:
    """Return what the program prints, at most 1 MiB of it; nothing that it started outlives the call."""
    if not path.is_file():
        raise NotFoundError(f"no such file: {path}")
    # APE programs are shell scripts to POSIX systems and executables to Windows only.
    prefix = [] if sys.platform == "win32" else ["sh"]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        process = subprocess.Popen(
            [*prefix, str(path.resolve()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=dict(environment) if environment is not None else _environment(folder),
            start_new_session=True,
        )
    except OSError as error:
        raise EngineError(f"{path} cannot be run", cause=str(error)) from error
    reader = _Reader(process)
    reader.start()
    reader.join(timeout_seconds)
    in_time = not reader.is_alive()
    _end(process)
    reader.join()
    if not in_time:
        raise EngineError(
            f"{path} did not answer {arguments[-1]} within {timeout_seconds:g} seconds",
            cause=_tail(reader.text()),
        )
    return reader.text()


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "HOME": str(folder), "TMPDIR": str(folder)}


class _Reader(threading.Thread):
    """Reads a process's output to its end, or to 1 MiB."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._data = bytearray()

    def run(self) -> None:
        stdout = self._process.stdout
        if stdout is None:
            return
        with stdout:
            while len(self._data) < _MAX_OUTPUT_BYTES and (data := os.read(stdout.fileno(), 65_536)):
                self._data += data

    def text(self) -> str:
        return bytes(self._data).decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all of its group, and reap it."""
    if sys.platform == "win32":
        process.kill()
    else:
        # The group may live on without its leader: a loader that forked, a child that holds the pipe.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(output: str) -> str | None:
    lines = output.strip().splitlines()
    return f"it printed: {lines[-1][:200]}" if lines else "it printed nothing"
