"""What the commands that people wait for import: time on a shared machine says little, imports say all."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.supervisor.asking import control_socket
from tests.support.service import environment

STATUS = {"url": "http://127.0.0.1:8080", "uptime_seconds": 1.0, "version": "0.1.0", "models": []}
#: Runs a command and prints what it imported beyond what click needs.
CODE = """
import click, gettext, sys
before = set(sys.modules)
from llamafile_mgr.__main__ import main
try:
    main()
finally:
    print(*sorted(set(sys.modules) - before), file=sys.stderr)
"""
SLOW = {"asyncio", "difflib", "hashlib", "importlib.resources", "logging", "ssl", "subprocess", "tempfile"}
OURS = {
    "llamafile_mgr",
    "llamafile_mgr.__main__",
    "llamafile_mgr.cli",
    "llamafile_mgr.cli.context",
    "llamafile_mgr.cli.output",
    "llamafile_mgr.errors",
}


def imported(home: Path, *arguments: str) -> tuple[str, set[str]]:
    """Run a command; return what it printed and the modules that it imported."""
    argv = [sys.executable, "-c", CODE, *arguments]
    result = subprocess.run(
        argv, env=environment(home), capture_output=True, text=True, timeout=50, check=True
    )
    return result.stdout, set(result.stderr.split())


def third_party(modules: set[str]) -> set[str]:
    """Return the packages that Python does not bring along."""
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


def test_plan_loads_neither_supervisor_nor_numpy(tiny_generator: Path, tmp_path: Path) -> None:
    printed, modules = imported(tmp_path, "plan", "--json", "--generate", str(tiny_generator))
    assert json.loads(printed)["plans"][0]["name"] == tiny_generator.stem
    above = ("supervisor", "embedding", "endpoints", "proxy", "bulk", "benchmarking", "service", "client")
    assert not {name for name in modules if name.startswith(tuple(f"llamafile_mgr.{room}" for room in above))}
    assert not modules & {"numpy", "asyncio", "ssl"}


@contextmanager
def answering_serve(home: Path) -> Iterator[None]:
    """Answer on the control socket of a ``serve`` with port 8080."""
    path = control_socket(resolve_paths({"LLAMAFILE_MGR_HOME": str(home)}).runtime, 8080)
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(65536):
                        connection.sendall(json.dumps(STATUS).encode() + b'\n{"end": true}\n')

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def test_help_imports_little_more_than_click(tmp_path: Path) -> None:
    printed, modules = imported(tmp_path, "--help")
    assert "Examples:" in printed
    assert {name for name in modules if name.startswith("llamafile_mgr")} == OURS
    assert third_party(modules) == {"llamafile_mgr", "click"}  # click formats help with a module of its own
    assert not modules & {*SLOW, "json", "pathlib", "socket", "dataclasses"}


def test_status_imports_what_asks_a_serve_and_no_more() -> None:
    """In a short home: a socket below a very long one gets a name of hashes, which costs imports."""
    with tempfile.TemporaryDirectory() as folder, answering_serve(Path(folder)):
        printed, modules = imported(Path(folder), "status")
    assert printed == "http://127.0.0.1:8080, up 1 s, version 0.1.0\n"
    assert {name for name in modules if name.startswith("llamafile_mgr")} == OURS | {
        "llamafile_mgr.cli.numbers",
        "llamafile_mgr.cli.running",
        "llamafile_mgr.cli.status",
        "llamafile_mgr.paths",
        "llamafile_mgr.supervisor",
        "llamafile_mgr.supervisor.asking",
    }
    assert third_party(modules) == {"llamafile_mgr"}
    assert not modules & SLOW
