"""launchd (macOS): an agent of the user, or a daemon. Written after launchd.plist(5); never run there.

There is no first-call start: launchd hands sockets over through a call of its own library alone.
"""

from __future__ import annotations

import plistlib
from pathlib import Path

from llamafile_mgr.errors import ServiceError
from llamafile_mgr.service.definition import Action, Definition, Scope, Steps, UnitFile

__all__ = ["action_command", "install_steps", "label_of", "render_plist", "uninstall_steps"]

_THROTTLE_SECONDS = 10


def label_of(name: str) -> str:
    """Return launchd's name of the service."""
    return f"io.llamafile-mgr.{name}"


def render_plist(definition: Definition) -> bytes:
    """Return the property list."""
    table: dict[str, object] = {
        "Label": label_of(definition.name),
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


def install_steps(definition: Definition, directory: Path, user_id: int) -> Steps:
    """Return how to install.

    Raises:
        ServiceError: the first call was to start it.
    """
    if definition.on_demand:
        raise ServiceError(
            "launchd cannot start the service at the first call", hint="install it without --on-demand"
        )
    domain = _domain(definition.scope, user_id)
    path = _path(definition.name, directory)
    return Steps(
        files=(UnitFile(path, render_plist(definition)),),
        written=(("launchctl", "bootstrap", domain, str(path)),),
        ensure=(("launchctl", "kickstart", f"{domain}/{label_of(definition.name)}"),),
        changed=(("launchctl", "bootout", f"{domain}/{label_of(definition.name)}"),),
    )


def uninstall_steps(name: str, scope: Scope, directory: Path, user_id: int) -> Steps:
    """Return how to remove it; models, settings and logs stay."""
    return Steps(
        files=(UnitFile(_path(name, directory), b""),),
        before=(("launchctl", "bootout", f"{_domain(scope, user_id)}/{label_of(name)}"),),
    )


def action_command(
    action: Action, name: str, scope: Scope, user_id: int, log: str, *, follow: bool = False
) -> tuple[str, ...]:
    """Return the command that starts, stops or shows it."""
    target = f"{_domain(scope, user_id)}/{label_of(name)}"
    if action is Action.LOGS:
        return ("tail", "-n", "100", *(["-f"] if follow else []), log)
    if action is Action.STATUS:
        return ("launchctl", "print", target)
    if action is Action.START:
        return ("launchctl", "kickstart", target)
    return ("launchctl", "kill", "SIGTERM", target)


def _path(name: str, directory: Path) -> Path:
    return directory / f"{label_of(name)}.plist"


def _domain(scope: Scope, user_id: int) -> str:
    return f"gui/{user_id}" if scope is Scope.USER else "system"
