"""launchd (macOS): an agent of the user, or a daemon. Written after launchd.plist(5); never run there.

There is no first-call start: launchd hands sockets over through a call of its own library alone.
"""

from __future__ import annotations

import plistlib
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.errors import ServiceError
from llamafile_mgr.service.definition import Action, Definition, Handle, Scope, Steps, UnitFile

_THROTTLE_SECONDS = 10


def _label(name: str) -> str:
    return f"io.llamafile-mgr.{name}"


def render_plist(definition: Definition) -> bytes:
    """Return the property list."""
    table: dict[str, object] = {
        "Label": _label(definition.name),
        "ProgramArguments": list(definition.argv),
        "EnvironmentVariables": dict(sorted(definition.environment.items())),
        "WorkingDirectory": definition.directory,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": _THROTTLE_SECONDS,
        "ExitTimeOut": definition.stop_seconds,
        "ProcessType": "Interactive",
        "Umask": 0o077,
    }
    if definition.user:
        table["UserName"] = definition.user
    if definition.log:
        table |= {"StandardOutPath": definition.log, "StandardErrorPath": definition.log}
    return plistlib.dumps(table, sort_keys=False)


@dataclass(frozen=True, slots=True)
class Launchd(Handle):
    """A service of launchd."""

    def install_steps(self, definition: Definition) -> Steps:
        """Return how to install. Raises ServiceError when the first call was to start it."""
        if definition.on_demand:
            raise ServiceError(
                "launchd cannot start the service at the first call", hint="install it without --on-demand"
            )
        file = UnitFile(self._path, render_plist(definition))
        return Steps(
            files=(file,),
            written=(("launchctl", "bootstrap", self._domain, str(file.path)),),
            ensure=(("launchctl", "kickstart", self._target),),
            changed=(("launchctl", "bootout", self._target),),
        )

    def uninstall_steps(self) -> Steps:
        """Return how to remove it."""
        return Steps(files=(UnitFile(self._path, b""),), before=(("launchctl", "bootout", self._target),))

    def command(self, action: Action, *, follow: bool = False) -> tuple[str, ...]:
        """Return the command that starts, stops or shows it."""
        if action is Action.LOGS:
            return ("tail", "-n", "100", *(["-f"] if follow else []), self.log)
        words = {Action.STATUS: ("print",), Action.START: ("kickstart",), Action.STOP: ("kill", "SIGTERM")}
        return ("launchctl", *words[action], self._target)

    @property
    def _path(self) -> Path:
        return self.directory / f"{_label(self.name)}.plist"

    @property
    def _domain(self) -> str:
        return f"gui/{self.user_id}" if self.scope is Scope.USER else "system"

    @property
    def _target(self) -> str:
        return f"{self._domain}/{_label(self.name)}"
