"""Engines that are installed on this system: found on PATH and in the settings, and asked what they are.

Each is asked for its version at every look, since the program may be a small launcher whose libraries change
without it. What takes longer, its help and its devices, is kept by the program's digest and that version.
Questions have deadlines, and are asked without the ``LLAMA_*`` variables that engines are not given either.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafile_mgr.config import EnginesConfig
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.toolbox import InstalledProgram
from llamafile_mgr.errors import ConfigError, StoreError
from llamafile_mgr.files import store_errors, write_atomically
from llamafile_mgr.paths import ensure_private_dir

_VERSION = 1
_SECONDS = 5.0
#: A program of PATH that is something else is left alone for so long; ``doctor`` asks it.
_REFUSED_SECONDS = 86_400.0
#: One that was late may only have been slow.
_LATE_SECONDS = 600.0
#: The help of a server of August 2026 has 60 KB.
_MOST_BYTES = 1 << 20
#: Programs whose answers are kept; the oldest go first.
_MOST_KEPT = 16


@dataclass(frozen=True, slots=True)
class UnusableProgram:
    """A program that was named or found, and ``cause``: why it cannot be used."""

    path: Path
    cause: str
    told: bool

    def error(self) -> ConfigError:
        """Return what to tell the user who named it."""
        known = ", ".join(" ".join(words) for each in Family for words in family_rules(each).program_names)
        return ConfigError(
            f"{self.path} cannot be used as an engine",
            cause=self.cause,
            hint=f"name one of these programs, as --engine or in engines.programs: {known}",
        )


@dataclass(frozen=True, slots=True)
class ProgramSearch:
    """What was found: engines, those that the user named first, and what is none."""

    programs: tuple[InstalledProgram, ...] = ()
    unusable: tuple[UnusableProgram, ...] = ()

    def require(self) -> tuple[InstalledProgram, ...]:
        """Return the engines. Raises ConfigError where one that the user named cannot be used."""
        for each in self.unusable:
            if each.told:
                raise each.error()
        return self.programs


def find_programs(settings: EnginesConfig, cache: Path, *, anew: bool = False) -> ProgramSearch:
    """Find the engines of this system and ask them. Blocks, some seconds for each that does not answer.

    ``cache``: the directory where answers are kept. ``anew``: believe none of them.
    """
    memory = _Memory.load(cache / "programs.json", anew)
    programs: list[InstalledProgram] = []
    unusable: list[UnusableProgram] = []
    seen: set[tuple[str, ...]] = set()
    for name, words, told in _candidates(settings):
        if not told and any(not each.told for each in programs):
            break  # one of PATH is enough
        path = _find(name, told)
        if path is None:
            if told:
                unusable.append(
                    UnusableProgram(Path(name), "there is no such program, or you may not run it", told)
                )
            continue
        if (identity := (str(path.resolve()), *words)) in seen:
            continue
        seen.add(identity)
        found = _describe(path, words, told, memory)
        if isinstance(found, InstalledProgram):
            programs.append(found)
        else:
            unusable.append(UnusableProgram(path, found, told))
    memory.save()
    return ProgramSearch(tuple(programs), tuple(unusable))


def find_files(settings: EnginesConfig) -> tuple[Path, ...]:
    """Return the programs that would be asked what they are."""
    found = (_find(name, told) for name, _, told in _candidates(settings))
    return tuple(dict.fromkeys(path for path in found if path is not None))


def _find(name: str, told: bool) -> Path | None:
    """Return the program of this name; one that just lies in the working directory only where it was told."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = None if told else os.pathsep.join(filter(os.path.isabs, folders))
    where = shutil.which(os.path.expanduser(name), path=path)
    return None if where is None or not (told or os.path.isabs(where)) else Path(where).absolute()


def find_folders(settings: EnginesConfig) -> tuple[Path, ...]:
    """Return where the programs that the settings name lie, and what they are links to, with libraries."""
    found = (shutil.which(os.path.expanduser(name)) for name in settings.programs)
    paths = [Path(where).absolute() for where in found if where is not None]
    return tuple(dict.fromkeys(each.parent for path in paths for each in (path, path.resolve())))


def _candidates(settings: EnginesConfig) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Yield names or paths, the words behind each, and whether the user named it."""
    known = [words for family in Family for words in family_rules(family).program_names]
    for told in settings.programs:
        rest = next((words[1:] for words in known if words[0] == Path(told).stem), ())
        yield told, rest, True
    for words in known if settings.search_path else ():
        yield words[0], words[1:], False


def _describe(path: Path, words: tuple[str, ...], told: bool, memory: _Memory) -> InstalledProgram | str:
    """Return what this program is, or why it cannot be used."""
    command = (str(path), *words)
    try:
        digest = memory.digest(path)
        if not told and (refused := memory.refusal(digest)) is not None:
            return refused
        said = _ask((*command, "--version"))
    except OSError as error:
        return error.strerror or str(error)
    if said is None:
        return memory.note_late(digest, f"it did not answer --version within {_SECONDS:g} seconds")
    for family in Family:
        rules = family_rules(family)
        version = rules.read_version(said)
        if version is not None:
            kept = memory.recall(digest, said) or _question(command, rules)
            if kept is None:
                return memory.note_late(digest, f"it did not answer --help within {_SECONDS:g} seconds")
            if not kept.devices:  # that a GPU was out of sight once is nothing to remember
                kept = _Answers(kept.flags, _devices_of(command, rules, kept.flags))
            memory.keep(digest, said, kept)
            name = " ".join(rules.program_names[0])
            return InstalledProgram(name, command, version, kept.flags, kept.devices, told)
    first = next((line.strip() for line in said.splitlines() if line.strip()), "nothing")
    cause = f"it is no engine that is known: for --version it printed {first[:120]!r}"
    return memory.refuse(digest, cause, _REFUSED_SECONDS)


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a program told of itself; ``flags`` and ``devices`` as in ``InstalledProgram``."""

    flags: frozenset[str]
    devices: tuple[str, ...]


def _question(command: tuple[str, ...], rules: EngineFamily) -> _Answers | None:
    said = _ask((*command, "--help"))
    return None if said is None else _Answers(rules.read_flags(said), ())


def _devices_of(command: tuple[str, ...], rules: EngineFamily, flags: frozenset[str]) -> tuple[str, ...]:
    said = _ask((*command, "--list-devices")) if "--list-devices" in flags else None
    return rules.read_devices(said) if said is not None else ()


def _ask(argv: Sequence[str]) -> str | None:
    """Return what a program prints until it ends, None when it is late; it is killed then. Raises OSError."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environ,
        start_new_session=True,
    )
    said: list[bytes] = []
    # A thread of its own: what the program has left running in another session may hold the pipe for ever.
    reader = threading.Thread(target=_read_all, args=(process, said), daemon=True)
    reader.start()
    late = True
    try:
        reader.join(_SECONDS)
        late = reader.is_alive()
        text = b"".join(said)
        if not late and len(text) < _MOST_BYTES:
            process.wait(_SECONDS)
    except subprocess.TimeoutExpired:  # it has closed its output, and goes on
        late = True
    finally:
        if process.returncode is None:
            _kill(process)  # what it has left running in its session too
            process.wait()
    return None if late else text.decode("utf-8", "replace")


def _read_all(process: subprocess.Popen[bytes], said: list[bytes]) -> None:
    assert process.stdout is not None  # noqa: S101
    with process.stdout as stream:
        said.append(stream.read(_MOST_BYTES))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


@dataclass(slots=True)
class _Memory:
    """What was told before, by digest, and the digests of files by what the system says of them."""

    path: Path
    files: dict[str, list[Any]] = field(default_factory=dict)
    programs: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def load(cls, path: Path, anew: bool) -> _Memory:
        """Return what the file holds; one that cannot be read counts as none."""
        try:
            document = {} if anew else json.loads(path.read_bytes())
            if document.get("version") == _VERSION:
                return cls(path, dict(document["files"]), dict(document["programs"]))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            pass
        return cls(path)

    def digest(self, path: Path) -> str:
        """Return the sha256 of a program. Raises OSError."""
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to read a pipe would take until somebody writes
            raise OSError(errno.EINVAL, "it is no regular file")
        identity = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
        known = self.files.get(str(path))
        if isinstance(known, list) and known[:-1] == identity and isinstance(known[-1], str):
            return known[-1]
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        self.files[str(path)] = [*identity, digest]
        self.changed = True
        return digest

    def recall(self, digest: str, said: str) -> _Answers | None:
        """Return what this program told when it printed the same for its version."""
        record = self.programs.get(digest)
        try:
            if record is None or record["said"] != said:
                return None
            flags, devices = record["flags"], record["devices"]
            lists = isinstance(flags, list) and isinstance(devices, list)
            if lists and all(isinstance(text, str) for text in (*flags, *devices)):
                return _Answers(frozenset(flags), tuple(devices))
        except (TypeError, LookupError):
            pass
        return None

    def refusal(self, digest: str) -> str | None:
        """Return why this program was no engine when it was asked of late."""
        record = self.programs.get(digest)
        try:
            if record is not None and 0 <= time.time() - record["at"] < record["seconds"]:
                return str(record["refused"])
        except (TypeError, LookupError):
            pass
        return None

    def refuse(self, digest: str, cause: str, seconds: float) -> str:
        """Remember for so long that this program is none, so that no plan starts it; returns ``cause``."""
        self.programs[digest] = {"refused": cause, "at": time.time(), "seconds": seconds}
        self.changed = True
        return cause

    def note_late(self, digest: str, cause: str) -> str:
        """Remember for a while a program that was late, unless it has answered before; returns ``cause``."""
        record = self.programs.get(digest)
        answered = isinstance(record, dict) and "said" in record
        return cause if answered else self.refuse(digest, cause, _LATE_SECONDS)

    def keep(self, digest: str, said: str, answers: _Answers) -> None:
        """Remember what this program told."""
        record = {"said": said, "flags": sorted(answers.flags), "devices": list(answers.devices)}
        if self.programs.get(digest) != record:
            self.programs.pop(digest, None)
            self.programs[digest] = record
            self.changed = True

    def save(self) -> None:
        """Write what changed; where that cannot be, the next look takes longer."""
        if not self.changed:
            return
        last = {name: dict(list(kept.items())[-_MOST_KEPT:]) for name, kept in self._tables()}
        data = json.dumps({"version": _VERSION, **last}).encode()
        with contextlib.suppress(StoreError):
            ensure_private_dir(self.path.parent)
            with store_errors(self.path):
                write_atomically(self.path, data)

    def _tables(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        return ("files", self.files), ("programs", self.programs)
