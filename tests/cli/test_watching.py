"""``status --watch``: in place on a terminal, snapshots in a pipe, and an end without a fuss."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.service import Service, environment, program, run_program

WATCH = ("status", "--watch", "--interval", "0.2", "--port")


@pytest.fixture
def port(service: Service) -> str:
    return str(urlsplit(service.url).port)


def read_pipe(home: Path, port: str, *more: str, lines: int) -> tuple[list[str], int]:
    """Return the first lines of a watch in a pipe, and its exit code after Ctrl-C."""
    with subprocess.Popen(
        program(*WATCH, port, *more), env=environment(home), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        found = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        return found, process.wait(10)


def test_in_a_pipe(model_home: Path, port: str) -> None:
    found, code = read_pipe(model_home, port, lines=24)
    assert code == 0
    assert "\x1b" not in "".join(found)
    assert sum("all-minilm-l6-v2 (embed" in line for line in found) >= 2
    assert found[0][:2] == "20"  # each snapshot is headed by its time


def test_as_json_lines(model_home: Path, port: str) -> None:
    found, code = read_pipe(model_home, port, "--json", lines=3)
    assert code == 0
    uptimes = [json.loads(line)["uptime_seconds"] for line in found]
    assert uptimes == sorted(set(uptimes))


def test_on_a_terminal(model_home: Path, port: str) -> None:
    ours, its = pty.openpty()
    env = environment(model_home, {"COLUMNS": "60", "LINES": "8", "TERM": "xterm"})
    with subprocess.Popen(program(*WATCH, port), env=env, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        screen, deadline = b"", time.monotonic() + 20
        while screen.count(b"\x1b[H") < 4 and time.monotonic() < deadline:
            screen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    os.close(ours)
    shown = screen.decode().split("\x1b[H")[1].replace("\x1b[K", "").replace("\x1b[J", "").splitlines()
    assert len(shown) <= 7
    assert shown[-1].endswith("more lines")
    assert all(len(line) <= 60 for line in shown)


def test_without_a_serve(tmp_path: Path) -> None:
    result = run_program(tmp_path, "status", "--watch")
    assert result.returncode == 14
    assert "no serve is running" in result.stderr
