"""Finding a running ``serve`` and asking it over its control channel, whose form ``control`` describes.

Commands of people wait for this module: it loads nothing that they would notice, such as asyncio.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamafile_mgr.errors import Error, NotReadyError, error_class
from llamafile_mgr.paths import Paths

_PATTERN = "control-*.sock"
#: sockaddr_un holds 104 (macOS) to 108 (Linux) bytes.
_LONGEST_PATH = 100
_CONNECT_SECONDS = 2.0


def control_socket(runtime: Path, port: int) -> Path:
    """Return the socket of the ``serve`` on ``port``; it moves to a short path when it would be too long."""
    return _directory(runtime) / f"control-{port}.sock"


def find_sockets(paths: Paths) -> list[tuple[int, Path]]:
    """Return (port, socket) of every ``serve`` of this installation that answers."""
    found = []
    # A system service has no login session, so its socket lies with its state.
    places = dict.fromkeys((paths.runtime, paths.state / "run"))
    for path in [each for place in places for each in sorted(_directory(place).glob(_PATTERN))]:
        port = path.stem.removeprefix("control-")
        if port.isascii() and port.isdigit() and _answers(path):
            found.append((int(port), path))
    return found


def _directory(runtime: Path) -> Path:
    if len(os.fsencode(runtime / "control-65535.sock")) <= _LONGEST_PATH:
        return runtime
    import hashlib
    import tempfile

    user = os.getuid() if hasattr(os, "getuid") else 0
    name = hashlib.sha256(os.fsencode(runtime)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"llamafile-mgr-{user}" / name


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def tell_error(error: Error) -> dict[str, Any]:
    """Return an error as plain values, for another process."""
    return {
        "message": error.message,
        "cause": error.cause,
        "hint": error.hint,
        "code": error.code,
        "exit_code": error.exit_code,
    }


def rebuild_error(told: dict[str, Any]) -> Error:
    """Return the error that another process told of: of its own class where that is one of ``errors``."""
    cls = error_class(str(told.get("code")))
    error = (cls or Error)(str(told["message"]), cause=told.get("cause"), hint=told.get("hint"))
    if cls is None:
        error.exit_code = told.get("exit_code", 1)  # type: ignore[misc]
    return error


def send_command(path: Path, command: dict[str, Any], *, seconds: float | None) -> Iterator[dict[str, Any]]:
    """Send one command and yield its answers; ``seconds``: the longest silence, None for no limit.

    Raises:
        Error: what the service answered, with its own exit code.
        NotReadyError: the service went away or did not answer in time.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_CONNECT_SECONDS)
            connection.connect(str(path))
            connection.settimeout(seconds)
            connection.sendall(json.dumps(command).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise rebuild_error(answer["error"])
                    if answer.get("end"):
                        return
                    yield answer
    except (OSError, ValueError) as error:
        raise NotReadyError(f"the running serve did not answer: {error}") from error
    raise NotReadyError("the running serve ended before it had answered")
