"""systemd: a service unit that is ready when its models are, and a socket unit that holds calls meanwhile.

Sources: systemd.service(5), systemd.socket(5), systemd.exec(5), sd_notify(3). Written for systemd 250 and
later. Options that are not set, and why:

* ``MemoryDenyWriteExecute``: the loader of APE programs maps its own code, and CUDA compiles kernels.
* ``ProcSubset=pid``: engines and the planner read ``/proc/cpuinfo`` and ``/proc/meminfo``.
* ``IPAddressDeny``: a pool may have backends on other machines; who may call is decided by address and key.
* ``PrivateDevices`` with GPUs: their device files would vanish; they are allowed one by one instead.
* Mount namespaces for a user's service: its manager may not make them on every kernel, and the service would
  not start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llamafile_mgr.service.definition import Action, Definition, Handle, Scope, Steps, UnitFile

#: Exit codes that no restart heals: usage, settings, no such model, a broken file, no plan.
_HOPELESS = "2 3 4 5 10"
#: What ``status`` asks for, of systemctl(1)'s properties.
_SHOWN = ("ActiveState", "SubState", "UnitFileState", "StatusText", "MainPID", "NRestarts", "Result")
_HOMES = ("/home", "/root", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  # named, not used


def render_service(definition: Definition) -> str:
    """Return the text of ``NAME.service``."""
    return "\n".join(
        [
            "[Unit]",
            "Description=llamafile-mgr: language models behind a local proxy",
            f"Requires={definition.name}.socket",
            f"After={definition.name}.socket",
            *([] if definition.scope is Scope.USER else ["After=network.target"]),
            "",
            "[Service]",
            "Type=notify",
            "NotifyAccess=main",
            *([f"User={definition.user}"] if definition.user else []),
            f"ExecStart={' '.join(_word(word) for word in definition.argv)}",
            "ExecReload=kill -HUP $MAINPID",
            f"WorkingDirectory={_specifier(definition.directory)}",
            *(
                f"Environment={_quoted(f'{key}={value}')}"
                for key, value in sorted(definition.environment.items())
            ),
            "# A start that makes progress asks for more time.",
            "TimeoutStartSec=90",
            f"TimeoutStopSec={definition.stop_seconds}",
            "WatchdogSec=30",
            "Restart=on-failure",
            "RestartSec=2",
            f"RestartPreventExitStatus={_HOPELESS}",
            "# serve stops its engines itself, in order; what is left after that is killed.",
            "KillMode=mixed",
            "# An engine that the kernel ends for memory is started smaller; the service goes on.",
            "OOMPolicy=continue",
            "LimitNOFILE=65536",
            "UMask=0077",
            "",
            "# Hardening: what engines need stays, everything else is shut.",
            *_hardening(definition),
            "",
            "[Install]",
            f"WantedBy={'default' if definition.scope is Scope.USER else 'multi-user'}.target",
            "",
        ]
    )


def _hardening(definition: Definition) -> Iterator[str]:
    yield "NoNewPrivileges=yes"
    yield "LockPersonality=yes"
    yield "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"
    yield "RestrictNamespaces=yes"
    yield "RestrictRealtime=yes"
    yield "RestrictSUIDSGID=yes"
    yield "SystemCallArchitectures=native"
    yield "SystemCallFilter=@system-service"
    yield "SystemCallErrorNumber=EPERM"
    if definition.scope is Scope.USER:
        return
    yield "CapabilityBoundingSet="
    yield "AmbientCapabilities="
    yield "ProtectSystem=strict"
    yield f"ReadWritePaths={' '.join(_quoted(place) for place in definition.writable)}"
    yield f"ProtectHome={'read-only' if definition.needs(*_HOMES) else 'yes'}"
    yield f"PrivateTmp={'no' if definition.needs(*_TEMPORARY) else 'yes'}"
    yield "ProtectClock=yes"
    yield "ProtectControlGroups=yes"
    yield "ProtectHostname=yes"
    yield "ProtectKernelLogs=yes"
    yield "ProtectKernelModules=yes"
    yield "ProtectKernelTunables=yes"
    yield "ProtectProc=invisible"
    yield "PrivateIPC=yes"
    yield "RemoveIPC=yes"
    if definition.devices:
        yield "DevicePolicy=closed"
        for device in definition.devices:
            yield f"DeviceAllow={device} rw"
    else:
        yield "PrivateDevices=yes"


def render_socket(definition: Definition) -> str:
    """Return the text of ``NAME.socket``: calls that arrive during a start or restart wait in it."""
    return "\n".join(
        [
            "[Unit]",
            "Description=Listening address of llamafile-mgr",
            "",
            "[Socket]",
            *(f"ListenStream={address}" for address in definition.addresses),
            "BindIPv6Only=ipv6-only",
            "Backlog=2048",
            f"Service={definition.name}.service",
            "",
            "[Install]",
            "WantedBy=sockets.target",
            "",
        ]
    )


@dataclass(frozen=True, slots=True)
class Systemd(Handle):
    """A service of systemd."""

    def install_steps(self, definition: Definition) -> Steps:
        """Return how to install: the socket always, the service with it unless the first call starts it."""
        systemctl, (socket, service) = self._systemctl, self._units
        if definition.on_demand:
            enabling = ((*systemctl, "disable", service), (*systemctl, "enable", "--now", socket))
        else:
            enabling = ((*systemctl, "enable", socket, service), (*systemctl, "start", socket, service))
        return Steps(
            files=(
                UnitFile(self.directory / service, render_service(definition).encode()),
                UnitFile(self.directory / socket, render_socket(definition).encode()),
            ),
            written=((*systemctl, "daemon-reload"),),
            ensure=enabling,
            # A socket's addresses change only while its service is down.
            changed=((*systemctl, "stop", socket, service),),
        )

    def uninstall_steps(self) -> Steps:
        """Return how to remove it."""
        return Steps(
            files=tuple(UnitFile(self.directory / unit, b"") for unit in self._units),
            before=((*self._systemctl, "disable", "--now", *self._units),),
            removed=((*self._systemctl, "daemon-reload"),),
        )

    def command(self, action: Action, *, follow: bool = False) -> tuple[str, ...]:
        """Return the command that starts, stops or shows it; stopping takes the socket too, or the next call
        would start it again."""
        service = self._units[1]
        if action is Action.LOGS:
            kind = "--user-unit" if self.scope is Scope.USER else "--unit"
            return (
                "journalctl",
                kind,
                service,
                "--no-pager",
                "--lines=100",
                *(["--follow"] if follow else []),
            )
        if action is Action.STATUS:
            return (*self._systemctl, "show", f"--property={','.join(_SHOWN)}", service)
        return (*self._systemctl, action.value, *self._units)

    @property
    def _units(self) -> tuple[str, str]:
        return f"{self.name}.socket", f"{self.name}.service"

    @property
    def _systemctl(self) -> tuple[str, ...]:
        return ("systemctl", "--user") if self.scope is Scope.USER else ("systemctl",)


def _specifier(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    escaped = _specifier(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if _is_unplain(text) else _specifier(text)


def _word(text: str) -> str:
    """Return one word of a command line, in which ``$`` would begin a variable."""
    return _quoted(text.replace("$", "$$"))


def _is_unplain(characters: str) -> bool:
    return not characters or any(c.isspace() or c in "\"'\\;" for c in characters)
