"""The service under a real systemd: installed, ready, watched, restarted, started by a call, removed."""

from __future__ import annotations

import json
import pwd
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.booted import Booted, boot_systemd
from tests.support.readme import json_keys
from tests.support.service import environment, program

SERVICE, SOCKET = "llamafile-mgr.service", "llamafile-mgr.socket"
RUNNING = {"ActiveState": "active", "SubState": "running"}
INSTALL = ("service", "install", "--system", "--run-as", "root", "--embed", "all-minilm-l6-v2")


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    place = tmp_path_factory.mktemp("systemd")
    (place / "base").mkdir()
    with boot_systemd(place / "base", place / "log") as running:
        yield running


@pytest.fixture
def installed(booted: Booted, model_home: Path) -> Booted:
    """Install the service and start it, as far as an earlier test has not."""
    ours(booted, model_home, *INSTALL)
    return booted


@pytest.fixture
def bare(booted: Booted, model_home: Path) -> Booted:
    """Remove the service that an earlier test installed."""
    ours(booted, model_home, "service", "uninstall", "--system")
    return booted


def ours(booted: Booted, home: Path, *arguments: str, check: bool = True) -> str:
    """Run one of our commands inside and return its output."""
    result = booted.run(program(*arguments), environment(home), check=False)
    journal = booted.run(["journalctl", "--no-pager", "--lines=40"], check=False).stdout
    assert not check or result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}{journal}"
    return result.stdout


def done(booted: Booted, home: Path, verb: str) -> dict[str, str]:
    """Start or stop the service and return what it said, which has the documented keys alone."""
    told: dict[str, str] = json.loads(ours(booted, home, "service", verb, "--system", "--json"))
    assert list(told) == json_keys(f"service {verb}")
    return told


def fetch(booted: Booted, route: str, body: str | None = None) -> str:
    """Ask the proxy inside."""
    code = (
        "import sys, urllib.request as u; "
        "print(u.urlopen(u.Request('http://127.0.0.1:8080' + sys.argv[1], "
        "sys.argv[2].encode() if len(sys.argv) > 2 else None), timeout=50).read().decode())"
    )
    return booted.run([sys.executable, "-c", code, route, *([body] if body else [])]).stdout


def test_nothing_outside_can_be_changed_from_inside(booted: Booted, tmp_path: Path) -> None:
    """What the other tests rely on: the files are a copy that is thrown away."""
    kept = tmp_path / "kept"
    kept.write_text("x")
    booted.run(["rm", str(kept)])
    booted.run(["touch", str(tmp_path / "made")])
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    for place in ("/proc/sys/kernel/hostname", "/sys/kernel/mm/transparent_hugepage/enabled"):
        assert booted.run(["sh", "-c", f"cat {place} >{place}"], check=False).returncode != 0


def test_it_is_ready_when_its_model_is(installed: Booted, model_home: Path) -> None:
    shown = installed.show(SERVICE, "ActiveState", "SubState", "StatusText", "UnitFileState")
    assert shown["UnitFileState"] == "enabled"
    assert shown["StatusText"].startswith("serving all-minilm-l6-v2 on http://127.0.0.1:8080")
    # `systemctl start` has returned, so that the first question finds everything ready.
    assert json.loads(fetch(installed, "/ready"))["models"][0]["ready"] is True
    reply = json.loads(fetch(installed, "/v1/embeddings", '{"input": "hello world"}'))
    assert len(reply["data"][0]["embedding"]) == 384
    assert "active (running), enabled" in ours(installed, model_home, "service", "status", "--system")
    told = json.loads(ours(installed, model_home, "service", "status", "--system", "--json"))
    assert (told["service"], told["ActiveState"]) == ("llamafile-mgr", "active")
    assert set(json_keys("service status")) <= set(told)
    lines = ours(installed, model_home, "service", "logs", "--system", "--json").splitlines()
    assert any("ready: all-minilm-l6-v2" in json.loads(line)["line"] for line in lines)
    assert {key for line in lines for key in json.loads(line)} == set(json_keys("service logs"))
    # The proxy's own control channel is reached from outside the service's namespace.
    assert "all-minilm-l6-v2" in ours(installed, model_home, "status")


def test_a_second_installation_changes_nothing(installed: Booted, model_home: Path) -> None:
    before = installed.show(SERVICE, "MainPID")
    text = ours(installed, model_home, *INSTALL)
    assert text.count("unchanged: ") == 2
    assert installed.show(SERVICE, "MainPID") == before
    text = ours(installed, model_home, *INSTALL, "--no-cache")
    assert text.count("unchanged: ") == 1
    assert "+ExecStart=" in text
    assert "--no-cache" in text
    assert installed.show(SERVICE, "MainPID") != before
    assert installed.show(SERVICE, *RUNNING) == RUNNING


def test_one_that_is_killed_comes_back(installed: Booted) -> None:
    before = int(installed.show(SERVICE, "NRestarts")["NRestarts"])
    installed.run(["systemctl", "kill", "--kill-who=main", "--signal=KILL", SERVICE])
    installed.await_state(SERVICE, {**RUNNING, "NRestarts": str(before + 1)})
    assert len(json.loads(fetch(installed, "/v1/models"))["data"]) == 1


def test_one_whose_loop_is_stuck_is_killed_by_the_watchdog(installed: Booted) -> None:
    """A stopped process cannot feed; 30 seconds are shortened, everything else is the unit's own."""
    installed.run(["mkdir", "-p", f"/run/systemd/system/{SERVICE}.d"])
    override = "[Service]\nWatchdogSec=4\n"
    code = f"printf '{override}' >/run/systemd/system/{SERVICE}.d/fast.conf".replace("\n", "\\n")
    installed.run(["sh", "-c", code])
    installed.run(["systemctl", "daemon-reload"])
    installed.run(["systemctl", "restart", SERVICE])
    pid = installed.show(SERVICE, "MainPID")["MainPID"]
    installed.run(["sleep", "5"])  # longer than the watchdog waits: it is fed
    assert installed.show(SERVICE, "MainPID")["MainPID"] == pid
    installed.run(["kill", f"-{int(signal.SIGSTOP)}", pid])
    installed.await_state(SERVICE, {**RUNNING, "NRestarts": "1"})
    assert installed.show(SERVICE, "MainPID")["MainPID"] != pid


def test_a_reload_is_told_and_ends(installed: Booted) -> None:
    pid = installed.show(SERVICE, "MainPID")
    installed.run(["systemctl", "reload", SERVICE])
    installed.await_state(SERVICE, RUNNING)
    assert installed.show(SERVICE, "MainPID") == pid


def test_a_call_during_a_restart_waits(installed: Booted) -> None:
    installed.run(["systemctl", "restart", "--no-block", SERVICE])
    codes = [json.loads(fetch(installed, "/health"))["status"] for _ in range(20)]
    assert codes == ["ok"] * 20
    installed.await_state(SERVICE, RUNNING)


def test_stop_takes_the_address_too(installed: Booted, model_home: Path) -> None:
    assert done(installed, model_home, "stop") == {"service": "llamafile-mgr", "done": "stopped"}
    stopped = {"ActiveState": "inactive", "Result": "success"}
    assert installed.show(SERVICE, *stopped) == stopped
    assert installed.show(SOCKET, "ActiveState") == {"ActiveState": "inactive"}
    result = installed.run(program("service", "status", "--system"), environment(model_home), check=False)
    assert result.returncode == 14
    assert done(installed, model_home, "start") == {"service": "llamafile-mgr", "done": "started"}
    assert installed.show(SERVICE, *RUNNING) == RUNNING


def test_the_first_call_starts_it(bare: Booted, model_home: Path) -> None:
    assert "the first call starts it" in ours(bare, model_home, *INSTALL, "--on-demand")
    assert bare.show(SERVICE, "ActiveState") == {"ActiveState": "inactive"}
    reply = json.loads(fetch(bare, "/v1/embeddings", '{"input": "hello world"}'))
    assert len(reply["data"][0]["embedding"]) == 384
    bare.await_state(SERVICE, RUNNING)
    assert "removed: /etc/systemd/system/llamafile-mgr.service" in ours(
        bare, model_home, "service", "uninstall", "--system"
    )
    assert bare.show(SERVICE, "LoadState") == {"LoadState": "not-found"}
    assert "there is no service" in ours(bare, model_home, "service", "uninstall", "--system")


ROOTS_HOME = pwd.getpwuid(0).pw_dir
USER_MANAGER = f"""\
[Service]
Type=notify
User=root
Environment=HOME={ROOTS_HOME} XDG_RUNTIME_DIR=/run/user/0
ExecStart=/lib/systemd/systemd --user --log-target=journal
Delegate=yes
"""


def test_a_users_own_service(bare: Booted, model_home: Path) -> None:
    """Under a user's manager, in which system services' mount namespaces do not exist."""
    bare.run(["mkdir", "-p", "/run/user/0", "/run/systemd/system"])
    bare.run(["sh", "-c", 'printf "%s" "$1" >/run/systemd/system/manager.service', "sh", USER_MANAGER])
    bare.run(["systemctl", "daemon-reload"])
    bare.run(["systemctl", "start", "manager.service"])
    units = f"{ROOTS_HOME}/.config/systemd/user"
    variables = {**environment(model_home), "HOME": ROOTS_HOME, "XDG_RUNTIME_DIR": "/run/user/0"}
    variables.pop("XDG_CONFIG_HOME", None)

    def mine(*arguments: str) -> str:
        return bare.run(program("service", *arguments), variables).stdout

    assert f"new: {units}/llamafile-mgr.service" in mine("install", "--embed", "all-minilm-l6-v2")
    assert "llamafile-mgr: active (running), enabled" in mine("status")
    reply = json.loads(fetch(bare, "/v1/embeddings", '{"input": "hello world"}'))
    assert len(reply["data"][0]["embedding"]) == 384
    shown = json.loads(mine("status", "--json"))
    assert (shown["ActiveState"], shown["NRestarts"]) == ("active", "0")
    assert "serving all-minilm-l6-v2" in shown["StatusText"]
    assert f"removed: {units}/llamafile-mgr.socket" in mine("uninstall")
