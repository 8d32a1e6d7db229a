"""One engine's process: spawned through an argv list in a session of its own, drained, and ended.

Linux: the kernel kills the engine when the manager dies. macOS: untested. Windows: untested.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import psutil

from llamafile_mgr.errors import EngineStartError, StoreError
from llamafile_mgr.supervisor.engine_log import EngineLog
from llamafile_mgr.supervisor.liveness import Effort
from llamafile_mgr.tasks import start_task

_PR_SET_PDEATHSIG = 1
#: Between two looks at an engine's output, while its start waits for lines and once it is ready: engines log
#: several lines a call, and each would wake us.
_START_BURST_SECONDS, _BURST_SECONDS = 0.02, 0.1


class EngineProcess(asyncio.SubprocessProtocol):
    """A running engine, whose output is taken in bursts. ``last_output``: when it last wrote to its log, in
    monotonic seconds."""

    _transport: asyncio.SubprocessTransport
    _drain: asyncio.Task[None]

    def __init__(self, log: EngineLog, on_line: Callable[[str], None]) -> None:
        self.last_output = time.monotonic()
        self._log = log
        self._on_line = on_line
        self._exited = asyncio.Event()
        self._pieces: list[bytes] = []
        self._changed = asyncio.Event()
        self._closed = False
        self._burst_seconds = _START_BURST_SECONDS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._drain = start_task(self._drain_output(), f"drain {self.pid}")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._pieces.append(data)
        self.last_output = time.monotonic()
        self._changed.set()
        pipe = cast(asyncio.ReadTransport, self._transport.get_pipe_transport(fd))
        pipe.pause_reading()
        asyncio.get_running_loop().call_later(self._burst_seconds, _resume, pipe)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._closed = True
        self._changed.set()
        self._close_when_over()

    def process_exited(self) -> None:
        self._exited.set()
        self._close_when_over()

    def _close_when_over(self) -> None:
        if self._closed and self._exited.is_set():
            self._transport.close()

    async def _drain_output(self) -> None:
        """Keep what is written until the pipe is closed."""
        while self._pieces or not self._closed:
            await self._changed.wait()
            self._changed.clear()
            data = b"".join(self._pieces)
            self._pieces.clear()
            for line in self._log.feed(data):
                self._on_line(line)
            # A full disk costs us the log, not the engine: its pipe must be read on.
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self._log.append, data)

    @property
    def pid(self) -> int:
        """Return the process id, which is also that of its process group."""
        return self._transport.get_pid()

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal, None while it runs."""
        return self._transport.get_returncode()

    @property
    def suspended(self) -> bool:
        """Tell whether somebody has stopped it with a signal, so that it neither works nor ends. Blocks."""
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except (psutil.Error, ProcessLookupError):
            return False

    def effort(self) -> Effort | None:
        """Return what it and its descendants have used, None where the system does not tell. Blocks."""
        try:
            process = psutil.Process(self.pid)
            times, others = process.cpu_times(), process.children(recursive=True)
        except (psutil.Error, OSError):
            return None
        seconds, read = times.user + times.system, 0
        for each in others:
            with contextlib.suppress(psutil.Error, OSError):  # it has ended
                seconds += sum(each.cpu_times()[:2])
        for each in (process, *others):
            # macOS does not tell, and nor do kernels and containers without accounts of it.
            with contextlib.suppress(psutil.Error, AttributeError, OSError, RuntimeError, ValueError):
                read += each.io_counters().read_bytes
        return Effort(seconds, read)

    async def catch_up(self, since: float) -> None:
        """Return when all has been read that it had printed by then, in monotonic seconds."""
        await asyncio.sleep(since + 2 * self._burst_seconds - time.monotonic())

    def note_ready(self) -> None:
        """Look at its output less often from now on."""
        self._burst_seconds = _BURST_SECONDS

    async def wait(self) -> int:
        """Wait for the end, then for the last of its output, and return the exit code."""
        await self._exited.wait()
        # A grandchild that keeps the pipe open must not keep us.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._drain), 1.0)
        code = self.exit_code
        assert code is not None  # noqa: S101
        return code

    async def stop(self, grace_seconds: float) -> None:
        """End the whole process group: SIGINT, SIGTERM after half the grace, SIGKILL after all of it.

        SIGINT comes first because it is the one signal that every engine generation ends cleanly on.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            if self.exit_code is not None:
                break
            self._signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exited.wait(), grace_seconds / 2)
        self._signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        await self._exited.wait()
        self._transport.close()
        self._drain.cancel()
        await asyncio.gather(self._drain, return_exceptions=True)
        await asyncio.to_thread(self._log.close)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if os.name == "posix":
                os.killpg(self.pid, number)
            elif self.exit_code is None:
                self._transport.terminate()


def _resume(pipe: asyncio.ReadTransport) -> None:
    if not pipe.is_closing():
        pipe.resume_reading()


#: What starts the process of an engine, as ``spawn_engine`` does.
Spawner = Callable[
    [Sequence[str], Mapping[str, str], Path, EngineLog, Callable[[str], None]], Awaitable[EngineProcess]
]


async def spawn_engine(
    argv: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    log: EngineLog,
    on_line: Callable[[str], None],
) -> EngineProcess:
    """Start ``argv`` and return it; its output goes to ``log``, each complete line to ``on_line``.

    Raises:
        EngineStartError: the program could not be started at all.
    """
    try:
        _, process = await asyncio.get_running_loop().subprocess_exec(
            lambda: EngineProcess(log, on_line),
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=directory,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    except OSError as error:
        raise EngineStartError(
            f"cannot start {argv[0]}: {error.strerror or error}",
            hint="`llamafile-mgr doctor` checks what engines need",
        ) from error
    return process


# Loaded at import: between fork and exec nothing may be looked up or allocated that a lock guards.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends, by whatever death."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
