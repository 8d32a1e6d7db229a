"""One face for the three managers: which files and commands an installation or an action comes to here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.service import launchd, systemd, task_scheduler
from llamafile_mgr.service.definition import Action, Definition, Manager, Scope, Steps, check_name
from llamafile_mgr.service.finding import ServiceHost, find_manager, unit_directory

__all__ = ["Handle", "find_handle"]


@dataclass(frozen=True, slots=True)
class Handle:
    """A service by name: of which manager, whose, and where its files are."""

    manager: Manager
    name: str
    scope: Scope
    directory: Path
    user_id: int
    log: str

    def install_steps(self, definition: Definition) -> Steps:
        """Return how to install. Raises ServiceError for what this manager cannot do."""
        if self.manager is Manager.SYSTEMD:
            return systemd.install_steps(definition, self.directory)
        if self.manager is Manager.LAUNCHD:
            return launchd.install_steps(definition, self.directory, self.user_id)
        return task_scheduler.install_steps(definition, self.directory)

    def uninstall_steps(self) -> Steps:
        """Return how to remove it."""
        if self.manager is Manager.SYSTEMD:
            return systemd.uninstall_steps(self.name, self.scope, self.directory)
        if self.manager is Manager.LAUNCHD:
            return launchd.uninstall_steps(self.name, self.scope, self.directory, self.user_id)
        return task_scheduler.uninstall_steps(self.name, self.directory)

    def command(self, action: Action, *, follow: bool = False) -> tuple[str, ...]:
        """Return the command for an action."""
        if self.manager is Manager.SYSTEMD:
            return systemd.action_command(action, self.name, self.scope, follow=follow)
        if self.manager is Manager.LAUNCHD:
            return launchd.action_command(
                action, self.name, self.scope, self.user_id, self.log, follow=follow
            )
        return task_scheduler.action_command(action, self.name, self.log)


def find_handle(name: str, target: ServiceHost, environ: Mapping[str, str]) -> Handle:
    """Return the handle of a service on this system, installed or not. Raises ConfigError for a bad name."""
    manager = find_manager()
    return Handle(
        manager,
        check_name(name),
        target.scope,
        unit_directory(manager, target, environ),
        target.user_id,
        str(target.paths.logs / f"service-{name}.log"),
    )
