"""What every service manager offers: the files and commands that an installation or an action comes to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.service.definition import Action, Definition, Scope, Steps

__all__ = ["Handle"]


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
