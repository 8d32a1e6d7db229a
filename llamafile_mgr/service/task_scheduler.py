"""The Windows task scheduler: a task at logon, or at boot. Written after its XML schema; never run there."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from xml.etree import ElementTree

from llamafile_mgr.errors import ServiceError
from llamafile_mgr.service.definition import Action, Definition, Handle, Scope, Steps, UnitFile

_NAMESPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"
_RUN_AS_SERVICE = "S-1-5-19"  # LocalService


def render_task(definition: Definition) -> bytes:
    """Return the task as XML in UTF-16, which ``schtasks /XML`` wants.

    A task has no environment of its own, so ``cmd`` sets the variables.
    """
    task = ElementTree.Element("Task", version="1.2", xmlns=_NAMESPACE)
    triggers = ElementTree.SubElement(task, "Triggers")
    trigger = "LogonTrigger" if definition.scope is Scope.USER else "BootTrigger"
    _text(ElementTree.SubElement(triggers, trigger), "Enabled", "true")
    principal = ElementTree.SubElement(ElementTree.SubElement(task, "Principals"), "Principal", id="Author")
    if definition.scope is Scope.SYSTEM:
        _text(principal, "UserId", _RUN_AS_SERVICE)
    else:
        _text(principal, "LogonType", "InteractiveToken")
    _text(principal, "RunLevel", "LeastPrivilege")
    settings = ElementTree.SubElement(task, "Settings")
    _text(settings, "MultipleInstancesPolicy", "IgnoreNew")
    _text(settings, "DisallowStartIfOnBatteries", "false")
    _text(settings, "StopIfGoingOnBatteries", "false")
    restart = ElementTree.SubElement(settings, "RestartOnFailure")
    _text(restart, "Interval", "PT1M")
    _text(restart, "Count", "10")
    _text(settings, "ExecutionTimeLimit", "PT0S")
    _text(settings, "Hidden", "true")
    action = ElementTree.SubElement(ElementTree.SubElement(task, "Actions", Context="Author"), "Exec")
    _text(action, "Command", "cmd.exe")
    _text(action, "Arguments", _command_line(definition))
    _text(action, "WorkingDirectory", definition.directory)
    ElementTree.indent(task)
    return b"\xff\xfe" + (
        '<?xml version="1.0" encoding="UTF-16"?>\n' + ElementTree.tostring(task, encoding="unicode") + "\n"
    ).encode("utf-16-le")


def _command_line(definition: Definition) -> str:
    """Return ``/c`` and the program after its variables.

    Raises:
        ServiceError: a value holds what ``cmd`` would read as its own.
    """
    values = (*definition.argv, *definition.environment.values(), definition.log or "")
    for value in values:
        if any(character in value for character in '%"&|<>^!'):
            raise ServiceError(
                f"{value!r} cannot stand in a Windows task", hint='use a path without % " & | < > ^ !'
            )
    sets = [f'set "{key}={value}"' for key, value in sorted(definition.environment.items())]
    program = subprocess.list2cmdline(definition.argv)
    redirect = f' >>"{definition.log}" 2>&1' if definition.log else ""
    return f'/d /s /c "{" && ".join([*sets, program + redirect])}"'


def _text(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = text


@dataclass(frozen=True, slots=True)
class TaskScheduler(Handle):
    """A task of Windows."""

    def install_steps(self, definition: Definition) -> Steps:
        """Return how to install.

        Raises:
            ServiceError: the first call was to start it, or a value cannot be written into a task.
        """
        if definition.on_demand:
            raise ServiceError(
                "Windows cannot start the service at the first call", hint="install it without --on-demand"
            )
        path = self.directory / f"{self.name}.xml"
        return Steps(
            files=(UnitFile(path, render_task(definition)),),
            written=(("schtasks", "/Create", "/TN", self.name, "/XML", str(path), "/F"),),
            ensure=(self.command(Action.START),),
            changed=(self.command(Action.STOP),),
        )

    def uninstall_steps(self) -> Steps:
        """Return how to remove it."""
        return Steps(
            files=(UnitFile(self.directory / f"{self.name}.xml", b""),),
            before=(self.command(Action.STOP), ("schtasks", "/Delete", "/TN", self.name, "/F")),
        )

    def command(self, action: Action, *, follow: bool = False) -> tuple[str, ...]:
        """Return the command that starts, stops or shows it."""
        if action is Action.LOGS:
            read = ("Get-Content", "-Tail", "100", "-LiteralPath", self.log)
            return ("powershell", "-NoProfile", "-Command", *read)
        if action is Action.STATUS:
            return ("schtasks", "/Query", "/TN", self.name, "/V", "/FO", "LIST")
        return ("schtasks", "/Run" if action is Action.START else "/End", "/TN", self.name)
