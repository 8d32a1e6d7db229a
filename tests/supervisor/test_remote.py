"""The life of a remote before a small server: reached, checked, lost, blamed or not, tried again."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llamafile_mgr.addresses import RemoteConfig
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineLostError, EngineStartError
from llamafile_mgr.supervisor.remote_backend import RemoteBackend
from llamafile_mgr.supervisor.states import EngineState
from tests.support.lives import ASK, Checks, fake_plan, surroundings, until


class Server:
    """Answers ``/health`` as told, and everything else with ``answer``; counts connections."""

    def __init__(self) -> None:
        self.healthy = True
        self.answer: tuple[int, object] = (200, {"data": []})
        self.bodies: list[dict[str, object]] = []
        self.keys: set[str] = set()
        self.space: str | None = None
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(fields["content-length"]))
                status, reply = self.route(head.split(" ")[1], body)
                data = json.dumps(reply).encode()
                space = f"X-Vector-Space: {self.space}\r\n" if self.space else ""
                writer.write(
                    f"HTTP/1.1 {status} X\r\n{space}Content-Length: {len(data)}\r\n\r\n".encode() + data
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def route(self, path: str, body: bytes) -> tuple[int, object]:
        if path == "/v1/models":
            return 404, {}
        if path == "/health":
            return (200, {}) if self.healthy else (503, {})
        self.bodies.append(json.loads(body))
        return self.answer


@asynccontextmanager
async def life(
    tmp_path: Path, server: Server, checks: Checks, *, address: str = "127.0.0.1"
) -> AsyncIterator[RemoteBackend]:
    """Run a remote until the end of the block."""
    listening = await asyncio.start_server(server.handle, "127.0.0.1", server.port)
    server.port = listening.sockets[0].getsockname()[1]
    config = RemoteConfig(f"http://{address}:{server.port}", model="theirs")
    remote = RemoteBackend(config.name, config, fake_plan(), lambda facts: checks, surroundings(tmp_path))
    task = asyncio.create_task(remote.run())
    try:
        yield remote
    finally:
        remote.request_stop(1.0)
        await asyncio.wait_for(task, 10)
        listening.close()
        assert remote.state is EngineState.STOPPED
        assert remote.client is None


async def test_it_is_asked_by_its_own_name_and_without_prompts(tmp_path: Path) -> None:
    server = Server()
    async with life(tmp_path, server, Checks()) as remote:
        await until(lambda: remote.ready)
        assert server.bodies == [{"model": "theirs", "input_type": "none", "input": ["a"]}]
        states = [each.state.value for each in remote.snapshot().transitions]
        assert states == ["starting", "warming", "ready"]
        assert "ready" in remote.log.lines[-1]


async def test_calls_are_blamed_only_when_losses_go_on(tmp_path: Path) -> None:
    server, checks = Server(), Checks()
    async with life(tmp_path, server, checks) as remote:
        blamed = []
        for _ in range(4):
            await until(lambda: remote.ready)
            client = remote.client
            remote.begin(0)
            checks.wrong = EngineError("it computes no more")
            remote.suspect()
            await until(lambda: remote.state is not EngineState.READY)
            checks.wrong = None
            remote.end(None, answered=False)
            blamed.append(not await remote.was_ended(client))
        assert blamed == [False, False, True, True]


async def test_a_refused_remote_has_failed_until_it_is_mended(tmp_path: Path) -> None:
    server, checks = Server(), Checks()
    checks.wrong = EngineStartError("its vectors are wrong")
    async with life(tmp_path, server, checks) as remote:
        await until(lambda: remote.state is EngineState.FAILED)
        assert remote.over
        assert remote.retry_seconds is not None
        assert remote.snapshot().cause == "its vectors are wrong"
        checks.wrong = None
        await until(lambda: remote.ready)
        assert remote.snapshot().restarts >= 3


async def test_it_waits_for_a_server_that_loads(tmp_path: Path) -> None:
    server = Server()
    server.healthy = False
    async with life(tmp_path, server, Checks()) as remote:
        await asyncio.sleep(0.05)
        assert remote.state is EngineState.STARTING
        server.healthy = True
        await until(lambda: remote.ready)
        assert remote.snapshot().restarts == 0


@pytest.mark.parametrize("status", [401, 404, 502, 503, 504])
async def test_what_it_says_of_itself_is_a_loss(tmp_path: Path, status: int) -> None:
    server = Server()
    async with life(tmp_path, server, Checks()) as remote:
        await until(lambda: remote.ready)
        client = remote.client
        assert client is not None
        server.answer = status, {"error": {"message": "not now"}}
        with pytest.raises(EngineLostError, match="not now"):
            await client.request(ASK, deadline_seconds=5)
        assert not remote.ready
        assert await remote.was_ended(client)
        await until(lambda: remote.cause is not None)
        server.answer = 200, {}
        await until(lambda: remote.ready)


async def test_one_that_is_busy_gets_a_pause_and_no_check(tmp_path: Path) -> None:
    server, checks = Server(), Checks()
    async with life(tmp_path, server, checks) as remote:
        await until(lambda: remote.ready)
        assert remote.client is not None
        server.answer = 429, {"error": "too many"}
        with pytest.raises(EngineLostError, match="busy"):
            await remote.client.request(ASK, deadline_seconds=5)
        assert (remote.ready, remote.state) == (False, EngineState.READY)
        await until(lambda: remote.ready)
        assert (checks.alive, remote.cause) == (0, None)


async def test_refusals_of_a_request_are_its_own(tmp_path: Path) -> None:
    server = Server()
    async with life(tmp_path, server, Checks()) as remote:
        await until(lambda: remote.ready)
        assert remote.client is not None
        server.answer = 400, {"error": "no"}
        assert (await remote.client.request(ASK, deadline_seconds=5)).status == 400
        assert remote.ready


async def test_every_new_connection_is_proved(tmp_path: Path) -> None:
    server, checks = Server(), Checks()
    async with life(tmp_path, server, checks) as remote:
        await until(lambda: remote.ready)
        client = remote.client
        assert client is not None
        await client.request(ASK, deadline_seconds=5)
        assert checks.alive == 0  # the connection of the first checks
        await asyncio.gather(*(client.request(ASK, deadline_seconds=5) for _ in range(4)))
        assert checks.alive >= 1
        proofs = checks.alive
        await client.request(ASK, deadline_seconds=5)
        assert checks.alive == proofs
        checks.wrong = EngineStartError("another model answers")
        with pytest.raises(EngineLostError, match="another model answers"):
            await asyncio.gather(*(client.request(ASK, deadline_seconds=5) for _ in range(8)))
        await until(lambda: remote.cause is not None)


async def test_a_changed_vector_space_is_a_loss(tmp_path: Path) -> None:
    server = Server()
    server.space = "0123456789abcdef"
    async with life(tmp_path, server, Checks()) as remote:
        await until(lambda: remote.ready)
        assert remote.client is not None
        server.space = "fedcba9876543210"
        with pytest.raises(EngineLostError, match="its vector space is now fedcba9876543210"):
            await remote.client.request(ASK, deadline_seconds=5)


async def test_calls_in_progress_end_before_it_leaves(tmp_path: Path) -> None:
    server = Server()
    async with life(tmp_path, server, Checks()) as remote:
        await until(lambda: remote.ready)
        remote.begin(0)
        remote.request_stop(5.0)
        await until(lambda: remote.state is EngineState.DRAINING)
        assert remote.client is not None
        assert (await remote.client.request(ASK, deadline_seconds=5)).status == 200
        remote.end(None, answered=True)
        await until(lambda: remote.state is EngineState.STOPPED)


async def test_a_refused_address_is_sent_nothing() -> None:
    server = Server()
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)

    def refuse(address: str) -> None:
        raise EngineStartError(f"not to {address}")

    client = EngineClient("localhost", listening.sockets[0].getsockname()[1], check_address=refuse)
    with pytest.raises(EngineStartError, match=r"not to 127\.0\.0\.1"):
        await client.request(ASK, deadline_seconds=5)
    await client.close()
    listening.close()
    assert server.bodies == []


async def test_a_log_that_cannot_be_written_costs_the_log_alone(tmp_path: Path) -> None:
    server, checks = Server(), Checks()
    async with life(tmp_path, server, checks) as remote:
        await until(lambda: remote.ready)
        logs = remote.log.path.parent
        checks.wrong = EngineError("it computes no more")
        remote.suspect()
        await until(lambda: remote.cause is not None)
        remote.log.close()
        shutil.rmtree(logs)
        logs.write_text("a file")
        checks.wrong = None
        await until(lambda: remote.ready)
        assert "ready" in remote.log.lines[-1]


async def test_a_defect_is_a_loss_with_a_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server, checks = Server(), Checks()
    with caplog.at_level(logging.ERROR):
        async with life(tmp_path, server, checks) as remote:
            await until(lambda: remote.ready)
            checks.wrong = ZeroDivisionError("of ours")
            remote.suspect()
            await until(lambda: remote.state is EngineState.FAILED)
            assert remote.snapshot().cause == "a defect of ours: ZeroDivisionError: of ours"
            checks.wrong = None
            await until(lambda: remote.ready)
    assert any(each.exc_info and each.exc_info[0] is ZeroDivisionError for each in caplog.records)
