"""What a service is, independent of who manages it, and what every manager offers to install and run it."""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from llamafile_mgr.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


class Scope(StrEnum):
    """Whose service it is: one user's, or the whole machine's."""

    USER = "user"
    SYSTEM = "system"


class Action(StrEnum):
    """What can be asked about a service that is installed."""

    START = "start"
    STOP = "stop"
    STATUS = "status"
    LOGS = "logs"


@dataclass(frozen=True, slots=True)
class Definition:
    """A service. Every path is absolute.

    ``argv``: the program; secrets never stand in it. ``user``: who runs it, for a system service.
    ``directory``: where it starts. ``writable``: the directories that it may write to. ``readable``: files
    and directories elsewhere that it needs (interpreter, package, models, settings). ``addresses``: where
    it listens, as ``127.0.0.1:8080`` or ``[::1]:8080``. ``devices``: device files of GPUs. ``on_demand``:
    the first call starts it. ``stop_seconds``: how long it may take to stop.
    """

    name: str
    scope: Scope
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str
    writable: tuple[str, ...]
    readable: tuple[str, ...]
    addresses: tuple[str, ...]
    user: str | None = None
    devices: tuple[str, ...] = ()
    on_demand: bool = False
    stop_seconds: int = 40
    log: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        words = (*self.argv, *self.environment, *self.environment.values(), self.directory, self.user or "")
        words += (*self.writable, *self.readable, *self.addresses, *self.devices)
        for word in words:
            if any(ord(character) < 32 or ord(character) == 127 for character in word):
                raise ConfigError(f"{word!r} holds a control character, which no service definition can")
        for place in (self.directory, *self.writable, *self.readable):
            if not Path(place).is_absolute():
                raise ConfigError(f"{place} is no absolute path")

    def needs(self, *roots: str) -> bool:
        """Return whether anything that the service uses lies under one of these directories."""
        used = (self.directory, *self.writable, *self.readable)
        return any(Path(root) in (Path(place), *Path(place).parents) for root in roots for place in used)


def check_name(name: str) -> str:
    """Return ``name`` when it can be that of a service. Raises ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a service", hint="letters, digits, '-', '_' and '.', at most 64"
        )
    return name


@dataclass(frozen=True, slots=True)
class UnitFile:
    """One file of a service manager."""

    path: Path
    data: bytes

    @property
    def lines(self) -> list[str]:
        """Return its text."""
        return lines_of(self.data)


def lines_of(data: bytes) -> list[str]:
    """Return the text of such a file: UTF-8, on Windows UTF-16 with its mark."""
    return data.decode("utf-16" if data.startswith(codecs.BOM_UTF16_LE) else "utf-8", "replace").splitlines()


@dataclass(frozen=True, slots=True)
class Steps:
    """What installing or removing comes to.

    ``files``: to write, or to remove. Commands: ``changed`` before a file of an installed service is written
    anew, ``written`` when any file is new or changed, ``ensure`` always, ``before`` ahead of a removal and
    ``removed`` after it.
    """

    files: tuple[UnitFile, ...]
    changed: tuple[tuple[str, ...], ...] = ()
    written: tuple[tuple[str, ...], ...] = ()
    ensure: tuple[tuple[str, ...], ...] = ()
    before: tuple[tuple[str, ...], ...] = ()
    removed: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What the user asked for.

    ``arguments``: those of ``serve``, files as absolute paths. ``needed``: the files among them.
    ``hosts``, ``port``: where it listens. ``drain_seconds``: how long accepted calls may take at the end.
    """

    name: str
    arguments: tuple[str, ...]
    needed: tuple[Path, ...]
    hosts: tuple[str, ...]
    port: int
    drain_seconds: float
    config_file: Path | None = None
    on_demand: bool = False


@dataclass(frozen=True, slots=True)
class Handle(ABC):
    """A service by name, installed or not: whose, where its files and its log are. One class per manager."""

    name: str
    scope: Scope
    directory: Path
    user_id: int
    log: str

    @abstractmethod
    def install_steps(self, definition: Definition) -> Steps:
        """Return how to install. Raises ServiceError for what this manager cannot do."""

    @abstractmethod
    def uninstall_steps(self) -> Steps:
        """Return how to remove it; models, settings and logs stay."""

    @abstractmethod
    def command(self, action: Action, *, follow: bool = False) -> tuple[str, ...]:
        """Return the command that starts, stops or shows it."""
