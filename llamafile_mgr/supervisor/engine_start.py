"""Bringing one started process to readiness: its port, its health route, its first right answers.

The deadline is for silence: it runs out when an engine says nothing for too long, not when a large model
takes its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Protocol, TypeVar

from llamafile_mgr.engines.engine_reports import EngineReport
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineStartError
from llamafile_mgr.machine.vendors import gpu_memory_of
from llamafile_mgr.supervisor.engine_log import EngineLog
from llamafile_mgr.supervisor.process import EngineProcess

T = TypeVar("T")
_POLL_SECONDS = 0.02
_HEALTH_SECONDS = 5.0
_OWNERSHIP_SECONDS = 1.0
_LISTENING = re.compile(r"(?:listening (?:at|on)|\blisten) https?://[^\s/]*:(\d{1,5})\b")


class EngineChecks(Protocol):
    """What an engine must be able to do; each raises EngineError when it does not do it right."""

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        """Prove that the engine's answers are right; asked once per start."""

    async def check_alive(self, client: EngineClient, rules: EngineFamily) -> None:
        """Get one small real answer; asked of engines that have been silent."""


async def await_unless_silent(
    work: Awaitable[T], process: EngineProcess, seconds: float, log: EngineLog
) -> T:
    """Return the result of ``work``, which may take for as long as the engine's log goes on.

    Raises:
        EngineStartError: the engine said nothing for ``seconds``.
    """
    task = asyncio.ensure_future(work)
    began = time.monotonic()
    try:
        while not task.done():
            left = max(process.last_output, began) + seconds - time.monotonic()
            if left <= 0:
                raise EngineStartError(
                    f"it was silent for {seconds:g} seconds before it was ready",
                    cause="; ".join(log.lines[-3:]) or "it printed nothing",
                )
            await asyncio.wait({task}, timeout=left)
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def read_listening_port(line: str) -> int | None:
    """Return the port of a line such as ``llama server listening at http://127.0.0.1:8081``."""
    found = _LISTENING.search(line)
    return int(found.group(1)) if found else None


def choose_port(host: str) -> int:
    """Return a port of ``host`` that is free now; another program may still take it before the engine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def listens_on(pid: int, port: int) -> bool:
    """Tell whether the process ``pid`` or a descendant listens on ``port``. Blocks; for a thread."""
    import psutil

    try:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            for connection in each.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return True
    except psutil.Error:
        return False
    return False


async def find_port(pid: int, chosen: int, listening: asyncio.Future[int]) -> int:
    """Return the port that the engine prints or, where it prints none, ``chosen`` once it listens there.

    A v1 engine moves on when its port is taken, so that a stranger may answer on the one it was given.
    """
    while True:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(listening), _OWNERSHIP_SECONDS)
        if chosen and await asyncio.to_thread(listens_on, pid, chosen):
            return chosen


async def await_health(client: EngineClient, rules: EngineFamily) -> None:
    """Return once the health route is green."""
    while True:
        with contextlib.suppress(EngineError):
            reply = await client.request(rules.health(), deadline_seconds=_HEALTH_SECONDS)
            if reply.status == 200:
                return
        await asyncio.sleep(_POLL_SECONDS)


async def observe_engine(
    client: EngineClient, rules: EngineFamily, told: EngineReport, pid: int, settings: LaunchSettings
) -> EngineReport:
    """Return how a ready engine runs: what its log ``told``, then its properties, then its GPU's driver.

    What cannot be had stays unknown: an engine is not lost for it.
    """
    request = rules.properties()
    if request is not None:
        with contextlib.suppress(EngineError):
            reply = await client.request(request, deadline_seconds=_HEALTH_SECONDS)
            context, slots = rules.read_properties(reply)
            told = replace(told, context=context or told.context, slots=slots or told.slots)
    if not rules.uses_gpus:
        return replace(told, gpu_bytes=0)
    if settings.gpu in (None, "disable"):
        return told
    return replace(told, gpu_bytes=await asyncio.to_thread(_gpu_bytes, pid))


def _gpu_bytes(pid: int) -> int | None:
    """Return the GPU memory of a process and its descendants, None where nothing tells. Blocks."""
    import psutil

    pids = {pid}
    with contextlib.suppress(psutil.Error):
        pids |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return gpu_memory_of(pids)
