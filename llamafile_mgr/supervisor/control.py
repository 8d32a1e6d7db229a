"""The control channel of a running ``serve``: a Unix socket that only its owner can open.

One JSON object per line: a command, then any number of answers, of which the last has ``"end": true``. An
answer with ``"error"`` carries an error's message, cause, hint and code. Windows has no such sockets in
asyncio; there the channel does not exist (never run there).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

from llamafile_mgr.errors import Error, NotReadyError, RequestError, StoreError, error_class
from llamafile_mgr.paths import ensure_private_dir

__all__ = ["ControlServer", "control_socket", "find_sockets", "rebuild_error", "send_command", "tell_error"]

#: Yields the answers to one command. The event is set when the one who asked has gone.
Handler = Callable[[dict[str, Any], asyncio.Event], AsyncGenerator[dict[str, Any], None]]

_PATTERN = "control-*.sock"
#: sockaddr_un holds 104 (macOS) to 108 (Linux) bytes.
_LONGEST_PATH = 100
_LINE_BYTES = 64 * 1024
_CONNECT_SECONDS = 2.0


def control_socket(runtime: Path, port: int) -> Path:
    """Return the socket of the ``serve`` on ``port``; it moves to a short path when it would be too long."""
    return _directory(runtime) / f"control-{port}.sock"


def find_sockets(runtime: Path) -> list[tuple[int, Path]]:
    """Return (port, socket) of every ``serve`` of this installation that answers."""
    found = []
    for path in sorted(_directory(runtime).glob(_PATTERN)):
        port = path.stem.removeprefix("control-")
        if port.isascii() and port.isdigit() and _answers(path):
            found.append((int(port), path))
    return found


def _directory(runtime: Path) -> Path:
    if len(os.fsencode(runtime / "control-65535.sock")) <= _LONGEST_PATH:
        return runtime
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


class ControlServer:
    """Serves ``handle`` on the socket until closed."""

    def __init__(self, path: Path, handle: Handler) -> None:
        self._path = path
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen.

        Raises:
            StoreError: the socket cannot be made.
        """
        if not hasattr(socket, "AF_UNIX"):
            return
        await asyncio.to_thread(ensure_private_dir, self._path.parent)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()  # of a serve that was killed: our own port is ours alone
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=_LINE_BYTES)
        except OSError as error:
            raise StoreError(f"cannot make the control socket {self._path}: {error.strerror}") from error
        finally:
            os.umask(before)

    async def close(self) -> None:
        """Stop listening, end what is in progress and remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with contextlib.suppress(OSError):
            self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)
        try:
            line = await reader.readline()
            if line:
                gone = asyncio.Event()
                watching = asyncio.create_task(_watch(reader, gone))
                try:
                    await self._answer(line, writer, gone)
                finally:
                    watching.cancel()
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter, gone: asyncio.Event) -> None:
        try:
            command = json.loads(line)
            if not isinstance(command, dict):
                raise RequestError("a command must be an object")
            async with contextlib.aclosing(self._handle(command, gone)) as answers:
                async for answer in answers:
                    await _write(writer, answer)
            await _write(writer, {"end": True})
        except json.JSONDecodeError as error:
            await _write(writer, _describe(RequestError(f"no JSON: {error}")))
        except Error as error:
            await _write(writer, _describe(error))


async def _watch(reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
    """Set ``gone`` at the end of what the other side sends; it has nothing more to say after its command."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(_LINE_BYTES):
            pass
    gone.set()


def _describe(error: Error) -> dict[str, Any]:
    return {"error": tell_error(error), "end": True}


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
    if cls is None:
        return _RemoteError(told)
    return cls(str(told["message"]), cause=told.get("cause"), hint=told.get("hint"))


async def _write(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    writer.write(json.dumps(value).encode() + b"\n")
    await writer.drain()


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


class _RemoteError(Error):
    """An error of the service whose class is its own, told to us."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["message"], cause=told.get("cause"), hint=told.get("hint"))
        self.exit_code = told.get("exit_code", 1)  # type: ignore[misc]
