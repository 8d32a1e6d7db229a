"""The control channel of a running ``serve``: a Unix socket that only its owner can open.

One JSON object per line: a command, then any number of answers, of which the last has ``"end": true``. An
answer with ``"error"`` carries an error's message, cause, hint and code. Windows has no such sockets in
asyncio; there the channel does not exist (never run there).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from llamafile_mgr.errors import Error, InternalError, RequestError, StoreError
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.supervisor.asking import tell_error

_LOG = logging.getLogger("llamafile_mgr.serve")
#: Yields the answers to one command. The future is done when the one who asked has gone.
Handler = Callable[[dict[str, Any], asyncio.Future[None]], AsyncGenerator[dict[str, Any], None]]

_LINE_BYTES = 64 * 1024


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
                gone = asyncio.create_task(_until_gone(reader))
                try:
                    await self._answer(line, writer, gone)
                finally:
                    gone.cancel()
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter, gone: asyncio.Future[None]) -> None:
        try:
            command = json.loads(line)
            if not isinstance(command, dict):
                raise RequestError("a command must be an object")
            async with contextlib.aclosing(self._handle(command, gone)) as answers:
                async for answer in answers:
                    await _write(writer, answer)
            await _write(writer, {"end": True})
            return
        except json.JSONDecodeError as error:
            failure: Error = RequestError(f"no JSON: {error}")
        except Error as error:
            failure = error
        except ConnectionError:
            raise
        except Exception as error:  # the boundary of one command: whoever asked must hear of a defect too
            _LOG.exception("a defect of ours: %r was not carried out", line)
            failure = InternalError(f"a defect of ours: {type(error).__name__}: {error}")
        await _write(writer, {"error": tell_error(failure), "end": True})


async def _until_gone(reader: asyncio.StreamReader) -> None:
    """Return at the end of what the other side sends; it has nothing more to say after its command."""
    with contextlib.suppress(OSError):
        while await reader.read(_LINE_BYTES):
            pass


async def _write(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    writer.write(json.dumps(value).encode() + b"\n")
    await writer.drain()
