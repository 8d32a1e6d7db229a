"""Definitions become files: exact lines, what systemd itself says of them, plists and tasks."""

from __future__ import annotations

import dataclasses
import plistlib
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.errors import ConfigError, ServiceError
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.service import launchd, systemd, task_scheduler
from llamafile_mgr.service.definition import Action, Definition, Scope, check_name
from llamafile_mgr.service.finding import find_target

BASE = Definition(
    name="llamafile-mgr",
    scope=Scope.SYSTEM,
    argv=("/usr/bin/true", "-m", "llamafile_mgr", "serve", "--embed", "m"),
    environment={"HOME": "/srv/models", "PATH": "/usr/bin:/bin"},
    directory="/srv/models",
    writable=("/srv/models",),
    readable=("/usr/bin/true",),
    addresses=("127.0.0.1:8080", "[::1]:8080"),
    user="daemon",
)
USERS = dataclasses.replace(BASE, scope=Scope.USER, user=None)


def handle(definition: Definition, directory: Path = Path("/x")) -> tuple[str, Scope, Path, int, str]:
    """Return what a manager's handle of this service is made of."""
    return definition.name, definition.scope, directory, 501, "/log"


@pytest.mark.parametrize("homes", ["home", "root", "run/user"])
def test_what_lies_in_a_home_is_seen(homes: str) -> None:
    assert "ProtectHome=read-only" in lines_of(writable=(f"/{homes}/x",))


def lines_of(**changes: object) -> list[str]:
    return systemd.render_service(dataclasses.replace(BASE, **changes)).split("\n")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "Type=notify"),
        ({}, "User=daemon"),
        ({}, "ExecStart=/usr/bin/true -m llamafile_mgr serve --embed m"),
        ({}, "PrivateDevices=yes"),
        ({}, "ProtectHome=yes"),
        ({}, "PrivateTmp=yes"),
        ({}, "ReadWritePaths=/srv/models"),
        ({}, "WantedBy=multi-user.target"),
        ({"readable": ("/home/me/m.gguf",)}, "ProtectHome=read-only"),
        ({"directory": "/tmp/x"}, "PrivateTmp=no"),
        ({"devices": ("/dev/nvidia0", "/dev/dri/renderD128")}, "DeviceAllow=/dev/dri/renderD128 rw"),
        ({"devices": ("/dev/nvidia0",)}, "DevicePolicy=closed"),
        ({"argv": ("/a b/python", "$HOME", "50%", 'q"')}, r'ExecStart="/a b/python" $$HOME 50%% "q\""'),
        ({"environment": {"A": "b c"}}, 'Environment="A=b c"'),
        ({"environment": {"A": "100%"}}, "Environment=A=100%%"),
        ({"writable": ("/a b", "/c")}, 'ReadWritePaths="/a b" /c'),
        ({"stop_seconds": 55}, "TimeoutStopSec=55"),
    ],
)
def test_a_line_of_the_service(changes: dict[str, object], line: str) -> None:
    assert line in lines_of(**changes)


def test_gpus_are_not_hidden() -> None:
    assert not any(line.startswith("PrivateDevices") for line in lines_of(devices=("/dev/kfd",)))


def test_a_users_service_needs_no_mount_namespace() -> None:
    lines = systemd.render_service(USERS).splitlines()
    assert "WantedBy=default.target" in lines
    refused = ("Protect", "Private", "ReadWrite", "Capability", "User=", "Device")
    assert not [line for line in lines if line.startswith(refused)]


def test_the_socket_holds_every_address() -> None:
    lines = systemd.render_socket(BASE).splitlines()
    assert [line for line in lines if line.startswith("Listen")] == [
        "ListenStream=127.0.0.1:8080",
        "ListenStream=[::1]:8080",
    ]


@pytest.mark.parametrize("bad", ["a\nExecStartPre=/bin/sh", "a\rb", "a\0b", "\x7f"])
def test_a_line_break_never_becomes_a_line(bad: str) -> None:
    for change in ({"argv": (bad,)}, {"environment": {"A": bad}}, {"writable": (f"/{bad}",)}):
        with pytest.raises(ConfigError):
            dataclasses.replace(BASE, **change)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "-x", "x" * 65, "a\n"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name)


@pytest.mark.parametrize("name", ["llamafile-mgr", "a", "rag_2.test"])
def test_a_name(name: str) -> None:
    assert check_name(name) == name


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="absolute"):
        dataclasses.replace(BASE, directory="here")


@given(st.lists(st.text(st.characters(min_codepoint=32, exclude_characters="\x7f"), min_size=1), min_size=1))
def test_words_come_back_as_they_went_in(words: list[str]) -> None:
    """Undo systemd's rules (systemd.syntax(7)): quotes, backslashes, ``%%`` and ``$$``."""
    line = next(line for line in lines_of(argv=tuple(words)) if line.startswith("ExecStart="))
    assert unquote(line.removeprefix("ExecStart=")) == words


def unquote(line: str) -> list[str]:
    words, word, quoted, escaped, begun = [], "", False, False, False
    for character in line:
        if escaped:
            word, escaped = word + character, False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted, begun = not quoted, True
        elif character == " " and not quoted:
            words.append(word)
            word, begun = "", False
        else:
            word, begun = word + character, True
    if begun or word:
        words.append(word)
    return [word.replace("%%", "%").replace("$$", "$") for word in words]


# What systemd itself says.


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    assert found is not None, "scripts/test installs it"
    return found


@pytest.mark.parametrize("definition", [BASE, USERS, dataclasses.replace(BASE, devices=("/dev/null",))])
def test_systemd_understands_the_units(definition: Definition, analyze: str, tmp_path: Path) -> None:
    user = ["--user"] if definition.scope is Scope.USER else []
    for file in systemd.Systemd(*handle(definition, tmp_path)).install_steps(definition).files:
        file.path.write_bytes(file.data)
    result = subprocess.run(
        [
            analyze,
            "verify",
            "--man=no",
            "--recursive-errors=no",
            *user,
            *sorted(map(str, tmp_path.iterdir())),
        ],
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    ours = [line for line in result.stderr.splitlines() if "llamafile-mgr" in line]
    assert (result.returncode, ours) == (0, []), result.stderr


@pytest.mark.parametrize(
    "changes",
    [{}, {"devices": ("/dev/nvidia0",)}, {"readable": ("/home/me/x",), "directory": "/tmp/x"}],
    ids=["plain", "gpu", "home"],
)
def test_systemd_rates_it_ok(changes: dict[str, object], analyze: str, tmp_path: Path) -> None:
    """Its word OK means an exposure below 5.0."""
    unit = tmp_path / "llamafile-mgr.service"
    unit.write_text("\n".join(lines_of(**changes)) + "\n")
    result = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=40", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


# The others, never run on their systems.


def test_the_plist_says_the_same() -> None:
    table = plistlib.loads(launchd.render_plist(dataclasses.replace(BASE, log="/srv/models/log")))
    assert table["ProgramArguments"] == list(BASE.argv)
    assert table["EnvironmentVariables"] == BASE.environment
    assert table["KeepAlive"] == {"SuccessfulExit": False}
    assert table["UserName"] == "daemon"
    assert table["StandardErrorPath"] == "/srv/models/log"


def test_the_task_says_the_same() -> None:
    data = task_scheduler.render_task(dataclasses.replace(USERS, argv=("C:\\a b\\python.exe", "-m", "x")))
    root = ElementTree.fromstring(data.decode("utf-16"))
    space = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    arguments = root.findtext("t:Actions/t:Exec/t:Arguments", namespaces=space)
    assert arguments == (
        r'/d /s /c "set "HOME=/srv/models" && set "PATH=/usr/bin:/bin" && "C:\a b\python.exe" -m x"'
    )
    assert root.find("t:Triggers/t:LogonTrigger", space) is not None
    assert root.findtext("t:Settings/t:ExecutionTimeLimit", namespaces=space) == "PT0S"


@pytest.mark.parametrize("bad", ["a&b", "%PATH%", 'a"b', "a|b", "a>b"])
def test_nothing_becomes_a_command_of_cmd(bad: str) -> None:
    with pytest.raises(ServiceError):
        task_scheduler.render_task(dataclasses.replace(USERS, argv=("python.exe", bad)))


def test_only_systemd_starts_on_demand() -> None:
    wish = dataclasses.replace(USERS, on_demand=True)
    with pytest.raises(ServiceError, match="first call"):
        launchd.Launchd(*handle(wish)).install_steps(wish)
    with pytest.raises(ServiceError, match="first call"):
        task_scheduler.TaskScheduler(*handle(wish)).install_steps(wish)
    enabled = systemd.Systemd(*handle(wish)).install_steps(wish).ensure
    assert ("systemctl", "--user", "enable", "--now", "llamafile-mgr.socket") in enabled


@pytest.mark.parametrize("action", list(Action))
def test_every_action_has_a_command(action: Action) -> None:
    assert "llamafile-mgr.service" in systemd.Systemd(*handle(BASE)).command(action)
    assert launchd.Launchd(*handle(USERS)).command(action)[0] in ("launchctl", "tail")
    assert task_scheduler.TaskScheduler(*handle(USERS)).command(action)[0] in ("schtasks", "powershell")


def test_a_user_without_a_home_gets_no_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    with pytest.raises(ServiceError, match="needs a home directory"):
        find_target(Scope.USER, None, paths, {})
