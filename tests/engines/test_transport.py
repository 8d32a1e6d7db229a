"""The engine client against real sockets that behave well and badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from llamafile_mgr.engines.messages import EngineRequest, json_request
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineLostError, EngineUnreachedError

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]
GET = EngineRequest("GET", "/health")


@asynccontextmanager
async def engine(script: Script) -> AsyncIterator[tuple[EngineClient, list[int]]]:
    """Run ``script`` per connection; give a client and the list of requests per connection."""
    counts: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counts.append(0)
        mine = len(counts) - 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                counts[mine] += 1
                await script(reader, writer, mine)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    client = EngineClient("127.0.0.1", server.sockets[0].getsockname()[1], api_key="secret")
    try:
        yield client, counts
    finally:
        await client.close()
        server.close()


def sending(*pieces: bytes, close: bool = False) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.005)
        if close:
            raise ConnectionError

    return script


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


async def test_a_connection_is_kept_and_used_again() -> None:
    async with engine(sending(OK)) as (client, counts):
        for _ in range(5):
            reply = await client.request(GET, deadline_seconds=5)
        assert (reply.status, reply.content_type, reply.body) == (200, "application/json", b"{}")
        assert counts == [5]


async def test_parallel_requests_get_connections_of_their_own() -> None:
    async with engine(sending(OK[:20], OK[20:])) as (client, counts):
        await asyncio.gather(*(client.request(GET, deadline_seconds=5) for _ in range(8)))
        assert sorted(counts) == [1] * 8


@pytest.mark.parametrize("cut", [1, 17, 40, len(OK) - 1])
async def test_a_reply_in_pieces(cut: int) -> None:
    async with engine(sending(OK[:cut], OK[cut:])) as (client, _):
        assert (await client.request(GET, deadline_seconds=5)).body == b"{}"


async def test_chunked_and_unframed_bodies() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with engine(sending(chunked)) as (client, _):
        assert (await client.request(GET, deadline_seconds=5)).body == b"abcde"
    async with engine(sending(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", close=True)) as (client, _):
        assert (await client.request(GET, deadline_seconds=5)).body == b"until the end"


async def test_a_short_body_is_a_lost_engine() -> None:
    short = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"
    async with engine(sending(short, close=True)) as (client, _):
        with pytest.raises(EngineLostError, match="broke off"):
            await client.request(GET, deadline_seconds=5)


async def test_no_http_is_a_lost_engine() -> None:
    async with engine(sending(b"SSH-2.0-OpenSSH\r\n\r\n")) as (client, _):
        with pytest.raises(EngineLostError, match="no HTTP"):
            await client.request(GET, deadline_seconds=5)


async def test_nobody_listens() -> None:
    client = EngineClient("127.0.0.1", 1)
    with pytest.raises(EngineLostError, match="cannot reach"):
        await client.request(GET, deadline_seconds=5)


async def test_a_kept_connection_that_the_engine_dropped_is_replaced() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        writer.write(OK)
        await writer.drain()
        if connection == 0:
            raise ConnectionError  # closes after a keep-alive answer

    async with engine(script) as (client, counts):
        await client.request(GET, deadline_seconds=5)
        await client.request(GET, deadline_seconds=5)
        assert counts == [1, 1]


async def test_an_engine_that_dies_of_what_came_over_a_kept_connection_was_reached() -> None:
    servers: list[asyncio.Server] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answers in (True, False):
            await reader.readuntil(b"\r\n\r\n")
            if answers:
                writer.write(OK)
        servers[0].close()
        writer.transport.abort()

    servers.append(await asyncio.start_server(handle, "127.0.0.1", 0))
    client = EngineClient("127.0.0.1", servers[0].sockets[0].getsockname()[1])
    await client.request(GET, deadline_seconds=5)
    with pytest.raises(EngineLostError) as lost:
        await client.request(GET, deadline_seconds=5)
    assert not isinstance(lost.value, EngineUnreachedError)
    with pytest.raises(EngineUnreachedError):
        await client.request(GET, deadline_seconds=5)
    await client.close()


async def test_silence_ends_at_the_deadline_and_the_connection_is_not_used_again() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        if connection == 0:
            await asyncio.sleep(30)
        writer.write(OK)
        await writer.drain()

    async with engine(script) as (client, counts):
        with pytest.raises(EngineError, match=r"did not answer /health within 0\.1 seconds"):
            await client.request(GET, deadline_seconds=0.1)
        assert (await client.request(GET, deadline_seconds=5)).body == b"{}"
        assert counts == [1, 1]


async def test_cancelling_a_request_closes_its_connection() -> None:
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        if not await reader.read(1):
            gone.set()

    async with engine(script) as (client, _):
        task = asyncio.create_task(client.request(GET, deadline_seconds=30))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_stream_is_passed_on_piece_by_piece() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    go = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        writer.write(head + b"3\r\none\r\n")
        await writer.drain()
        await go.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await writer.drain()

    async with engine(script) as (client, counts):
        stream = await client.open_stream(json_request("/x", {}), deadline_seconds=5)
        pieces = []
        async for piece in stream.chunks(5):
            pieces.append(piece)
            go.set()
        stream.close()
        assert pieces == [b"one", b"two"]
        await client.request(GET, deadline_seconds=5)
        assert counts == [2]


async def test_a_slow_reader_stops_the_engine_from_filling_memory() -> None:
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n")
        for _ in range(256):
            writer.write(bytes(1 << 20))
            await writer.drain()
            sent += 1

    async with engine(script) as (client, _):
        stream = await client.open_stream(GET, deadline_seconds=5)
        await asyncio.sleep(0.5)
        assert sent < 64
        total = 0
        async for piece in stream.chunks(5):
            total += len(piece)
        assert total == 268435456


async def test_closing_ends_what_is_in_progress() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        await asyncio.sleep(30)

    async with engine(script) as (client, _):
        task = asyncio.create_task(client.request(GET, deadline_seconds=30))
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(EngineLostError):
            await task
        with pytest.raises(EngineLostError, match="was stopped"):
            await client.request(GET, deadline_seconds=1)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "unit"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
        (b"HTTP/1.1 200 OK\r\n", b"y" * 65536),
        (b"HTTP/1.1 200 OK\r\n", b"X:\r\n" * 16384),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000),
        (CHUNKED + b"0\r\nX: ", b"y" * 65536),
        (CHUNKED + b"0\r\n", b"X:\r\n" * 16384),
        (CHUNKED + b"1;", b"y" * 65536),
        (CHUNKED, b"1\r\n \r\n" * 8192),
    ],
)
async def test_what_stands_around_an_answer_has_a_bound(first: bytes, unit: bytes) -> None:
    """An engine that was taken over, or another program behind a remote's address, may send for ever."""
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        nonlocal sent
        writer.write(first)
        while sent < 512:
            writer.write(unit)
            await writer.drain()
            sent += 1

    async with engine(script) as (client, _):
        with pytest.raises(EngineLostError, match="no HTTP"):
            await client.request(GET, deadline_seconds=20)
    assert sent < 512


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"]
)
async def test_a_body_has_a_bound(head: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        writer.write(head)
        for _ in range(100):
            writer.write(b" " * (1 << 20))
            await writer.drain()

    async with engine(script) as (client, _):
        with pytest.raises(EngineError, match="more than 64 MiB"):
            await client.request(GET, deadline_seconds=20)
        stream = await client.open_stream(GET, deadline_seconds=20)
        with pytest.raises(EngineError, match="more than 64 MiB"):
            await stream.read(20)
        stream.close()


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"identity", b"chunked, x"])
async def test_a_body_in_another_coding_is_no_answer(coding: bytes) -> None:
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    async with engine(sending(reply)) as (client, _):
        with pytest.raises(EngineLostError, match="no HTTP"):
            await client.request(GET, deadline_seconds=5)


async def test_what_comes_before_the_answer_is_not_taken_for_it() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: x\r\n\r\n"
    async with engine(sending(hints, OK)) as (client, counts):
        for _ in range(2):
            reply = await client.request(GET, deadline_seconds=5)
            assert (reply.status, reply.body) == (200, b"{}")
        assert counts == [2]
