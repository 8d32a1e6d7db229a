"""The control channel: answers, refusals, defects of ours, and one who asks and goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from llamafile_mgr.errors import Error, InternalError, NotFoundError, RequestError
from llamafile_mgr.supervisor.asking import send_command
from llamafile_mgr.supervisor.control_channel import ControlServer


class Commands:
    """Counts to what it is told, or fails."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def handle(
        self, command: dict[str, Any], gone: asyncio.Future[None]
    ) -> AsyncGenerator[dict[str, Any], None]:
        for number in range(command.get("count", 0)):
            yield {"number": number}
        if command.get("wait"):
            await asyncio.wait({gone})
            self.left.set()
        if command.get("unknown"):
            raise NotFoundError("no such model")
        if command.get("defect"):
            raise ZeroDivisionError("of ours")


def ask(path: Path, command: dict[str, Any]) -> list[dict[str, Any]]:
    return list(send_command(path, command, seconds=5))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


async def test_answers_and_errors_come_back_as_they_are(path: Path) -> None:
    server = ControlServer(path, Commands().handle)
    await server.start()
    try:
        assert await asyncio.to_thread(ask, path, {"count": 2}) == [{"number": 0}, {"number": 1}]
        with pytest.raises(NotFoundError, match="no such model"):
            await asyncio.to_thread(ask, path, {"count": 1, "unknown": True})
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"[1]\n")
        assert RequestError.code.encode() in await reader.readline()
        writer.close()
    finally:
        await server.close()
    assert not await asyncio.to_thread(path.exists)


async def test_a_defect_is_told_and_logged_and_ends_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = ControlServer(path, Commands().handle)
    await server.start()
    try:
        with caplog.at_level(logging.ERROR), pytest.raises(Error) as caught:
            await asyncio.to_thread(ask, path, {"count": 1, "defect": True})
        assert isinstance(caught.value, InternalError)
        assert "ZeroDivisionError: of ours" in caught.value.message
        assert [each.exc_info[0] for each in caplog.records if each.exc_info] == [ZeroDivisionError]
        assert await asyncio.to_thread(ask, path, {"count": 1}) == [{"number": 0}]
    finally:
        await server.close()


async def test_a_handler_hears_that_whoever_asked_has_gone(path: Path) -> None:
    commands = Commands()
    server = ControlServer(path, commands.handle)
    await server.start()
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"wait": true}\n')
        await asyncio.sleep(0.05)
        assert not commands.left.is_set()
        writer.close()
        await asyncio.wait_for(commands.left.wait(), 5)
    finally:
        await server.close()
