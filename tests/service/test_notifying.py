"""A real ``serve`` with a notification socket and with sockets that it was given."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llamafile_mgr.errors import ConfigError
from llamafile_mgr.proxy.listening import inherited_sockets
from llamafile_mgr.supervisor.notify import Notifier
from tests.support.service import environment, program, running_service


class Manager:
    """The receiving end of a notification socket."""

    def __init__(self, place: Path) -> None:
        self.path = place / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.told: list[str] = []

    def await_line(self, start: str, seconds: float = 30.0) -> str:
        """Return the next line that begins so."""
        end = time.monotonic() + seconds
        while True:
            for number, line in enumerate(self.told):
                if line.startswith(start):
                    del self.told[: number + 1]
                    return line
            self.told.clear()
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                self.told += self.socket.recv(65536).decode().splitlines()
            except TimeoutError:
                raise AssertionError(f"no {start}") from None

    def is_silent_for(self, seconds: float) -> bool:
        """Return whether nothing comes for so long, after what has come already."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.socket.recv(65536):
                pass
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(65536)
        except TimeoutError:
            return True
        return False


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(tmp_path)
    yield found
    found.socket.close()


def test_serve_tells_how_it_is(manager: Manager, model_home: Path) -> None:
    told = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"}
    with running_service(model_home, "--embed", "all-minilm-l6-v2", extra=told, ready=False) as service:
        manager.await_line("STATUS=listening on")
        manager.await_line("EXTEND_TIMEOUT_USEC=60000000")
        manager.await_line("READY=1")
        assert httpx.get(f"{service.url}/ready").status_code == 200
        assert "serving all-minilm-l6-v2 on" in manager.await_line("STATUS=")
        for _ in range(3):
            manager.await_line("WATCHDOG=1", 5.0)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        service.process.send_signal(signal.SIGHUP)
        manager.await_line("RELOADING=1")
        assert int(manager.await_line("MONOTONIC_USEC=").partition("=")[2]) >= before
        manager.await_line("READY=1")
        service.process.send_signal(signal.SIGSTOP)
        assert manager.is_silent_for(1.5)  # a process that is stuck does not feed
        service.process.send_signal(signal.SIGCONT)
        manager.await_line("WATCHDOG=1", 5.0)
        service.process.send_signal(signal.SIGTERM)
        manager.await_line("STOPPING=1")
        assert service.stop() == 0


def test_engines_cannot_speak_for_the_service(model_home: Path, manager: Manager) -> None:
    told = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"}
    with running_service(model_home, "--embed", "all-minilm-l6-v2", extra=told) as service:
        children = (
            Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
        )
        assert children
        for child in children:
            variables = Path(f"/proc/{child}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in variables
            assert b"WATCHDOG" not in variables


def test_the_first_call_starts_serve(model_home: Path) -> None:
    tool = shutil.which("systemd-socket-activate")
    assert tool is not None, "scripts/test installs it"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = environment(model_home)
    kept = [f"--setenv={name}" for name in variables]
    argv = [tool, f"--listen=127.0.0.1:{port}", *kept, *program("serve", "--embed", "all-minilm-l6-v2")]
    process = subprocess.Popen(
        argv, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert re.match(r"Listening on 127\.0\.0\.1:\d+", process.stderr.readline())
        reply = httpx.post(f"http://127.0.0.1:{port}/v1/embeddings", json={"input": "hello"}, timeout=45)
        assert len(reply.json()["data"][0]["embedding"]) == 384
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "²", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_sockets_of_another_process_are_left_alone(variables: dict[str, str]) -> None:
    assert inherited_sockets(public=False, environ=variables, first=9999) == []
    assert not variables


def give(kind: socket.SocketKind, host: str | None, *, listen: bool) -> tuple[int, dict[str, str]]:
    given = socket.socket(socket.AF_INET, kind)
    if host is not None:
        given.bind((host, 0))
    if listen:
        given.listen()
    return given.detach(), {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "x"}


def test_a_given_socket_is_taken_and_closed_in_children() -> None:
    number, variables = give(socket.SOCK_STREAM, "127.0.0.1", listen=True)
    (taken,) = inherited_sockets(public=False, environ=variables, first=number)
    with taken:
        assert taken.fileno() == number
        assert not taken.get_inheritable()
        assert variables == {}


@pytest.mark.parametrize(
    ("kind", "host", "listen", "message"),
    [
        (socket.SOCK_DGRAM, "127.0.0.1", False, "not listening on TCP"),
        (socket.SOCK_STREAM, None, False, "not listening on TCP"),
        (socket.SOCK_STREAM, "0.0.0.0", True, "will not listen on"),
    ],
)
def test_a_given_socket_that_is_wrong(
    kind: socket.SocketKind, host: str | None, listen: bool, message: str
) -> None:
    number, variables = give(kind, host, listen=listen)
    with pytest.raises(ConfigError, match=message):
        inherited_sockets(public=False, environ=variables, first=number)


def test_all_addresses_are_served_with_keys() -> None:
    number, variables = give(socket.SOCK_STREAM, "0.0.0.0", listen=True)
    (taken,) = inherited_sockets(public=True, environ=variables, first=number)
    taken.close()


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_three_times_in_its_patience(
    variables: dict[str, str], seconds: float | None
) -> None:
    assert Notifier(variables).feed_seconds == seconds


def test_a_status_is_one_line(manager: Manager) -> None:
    Notifier({"NOTIFY_SOCKET": str(manager.path)}).status("a\nREADY=1")
    assert manager.socket.recv(1000) == b"STATUS=a READY=1"


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0llamafile-mgr-test-{os.getpid()}")
        Notifier({"NOTIFY_SOCKET": f"@llamafile-mgr-test-{os.getpid()}"}).feed()
        assert receiver.recv(100) == b"WATCHDOG=1"


def test_nobody_listens_any_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).feed()
    assert "cannot be told" in caplog.text
