"""What a process and its descendants are seen to do, where a system tells only some of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from llamafile_mgr.supervisor.engine_log import EngineLog
from llamafile_mgr.supervisor.process import EngineProcess, spawn_engine

SPIN = "while :; do :; done & wait"


async def spin(folder: Path) -> EngineProcess:
    """Start a shell whose child computes, and return once it has."""
    log = EngineLog(folder / "log")
    process = await spawn_engine(("sh", "-c", SPIN), {"PATH": "/usr/bin:/bin"}, folder, log, lambda _: None)
    async with asyncio.timeout(20):
        while (effort := process.effort()) is None or effort.cpu_seconds < 0.05:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return process


async def test_a_childs_work_counts_where_what_is_read_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await spin(tmp_path)
    try:
        for error in (FileNotFoundError("/proc/1/io"), RuntimeError("empty"), psutil.AccessDenied(1)):

            def refuse(_: psutil.Process, error: Exception = error) -> None:
                raise error

            monkeypatch.setattr(psutil.Process, "io_counters", refuse)
            effort = process.effort()
            assert effort is not None
            assert effort.cpu_seconds >= 0.05
            assert effort.read_bytes == 0
    finally:
        await process.stop(1.0)


@pytest.mark.parametrize("error", [PermissionError("/proc"), psutil.AccessDenied(1)])
async def test_a_process_that_nobody_may_see_has_no_effort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    process = await spin(tmp_path)
    try:

        def refuse(_: psutil.Process) -> None:
            raise error

        monkeypatch.setattr(psutil.Process, "cpu_times", refuse)
        assert process.effort() is None
    finally:
        await process.stop(1.0)
