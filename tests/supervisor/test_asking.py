"""Finding the control sockets of running services."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from llamafile_mgr.paths import Paths, resolve_paths
from llamafile_mgr.supervisor.asking import control_socket, find_sockets


def listen(stack: contextlib.ExitStack, directory: Path, port: int) -> Path:
    """Listen as a ``serve`` on ``port`` does."""
    path = control_socket(directory, port)
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(path))
    listener.listen()
    return path


def paths_below(root: Path) -> Paths:
    return resolve_paths({"LLAMAFILE_MGR_HOME": str(root)})


def test_those_of_sessions_and_of_system_services_are_found(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    with contextlib.ExitStack() as stack:
        ours = listen(stack, paths.runtime, 8080)
        services = listen(stack, paths.state / "run", 9090)
        assert find_sockets(paths) == [(8080, ours), (9090, services)]


def test_what_does_not_answer_is_left_out(tmp_path: Path) -> None:
    paths = paths_below(tmp_path)
    with contextlib.ExitStack() as stack:
        dead = listen(stack, paths.runtime, 8080)
        odd = listen(stack, paths.runtime, 8081)
        odd.rename(odd.with_name("control-odd.sock"))
    assert dead.exists()
    assert find_sockets(paths) == []
