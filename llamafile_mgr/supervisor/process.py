"""One engine's process: spawned through an argv list in a session of its own, drained, and ended.

Linux: the kernel kills the engine when the manager dies. macOS: untested. Windows: untested.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from llamafile_mgr.errors import EngineStartError, StoreError
from llamafile_mgr.supervisor.logs import EngineLog

__all__ = ["EngineProcess", "spawn_engine"]

_PR_SET_PDEATHSIG = 1
_READ_BYTES = 64 * 1024


class EngineProcess:
    """A running engine. ``last_output``: monotonic seconds of the latest log output."""

    def __init__(
        self, process: asyncio.subprocess.Process, log: EngineLog, on_line: Callable[[str], None]
    ) -> None:
        self._process = process
        self._log = log
        self._on_line = on_line
        self.started_at = time.monotonic()
        self.last_output = self.started_at
        self._drain = asyncio.create_task(self._drain_output(), name=f"drain {process.pid}")

    @property
    def pid(self) -> int:
        """Return the process id, which is also that of its process group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal, None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end, then for the last of its output, and return the exit code."""
        code = await self._process.wait()
        # A grandchild that keeps the pipe open must not keep us.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._drain), 1.0)
        return code

    async def stop(self, grace_seconds: float) -> None:
        """End the whole process group: SIGINT, SIGTERM after half the grace, SIGKILL after all of it.

        SIGINT comes first because it is the one signal that every engine generation ends cleanly on.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            if self.exit_code is not None:
                break
            self._signal(number)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_seconds / 2)
        self._signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        await self._process.wait()
        self._drain.cancel()
        await asyncio.gather(self._drain, return_exceptions=True)
        await asyncio.to_thread(self._log.close)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if os.name == "posix":
                os.killpg(self.pid, number)
            elif self.exit_code is None:
                self._process.terminate()

    async def _drain_output(self) -> None:
        reader = self._process.stdout
        assert reader is not None  # noqa: S101
        while data := await reader.read(_READ_BYTES):
            self.last_output = time.monotonic()
            for line in self._log.feed(data):
                self._on_line(line)
            # A full disk costs us the log, not the engine: its pipe must be read on.
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self._log.append, data)


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
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
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
    return EngineProcess(process, log, on_line)


# Loaded at import: between fork and exec nothing may be looked up or allocated that a lock guards.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends, by whatever death."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
