"""Many connections to one service from one process, on bare sockets: a client library would be the limit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.llamafiles import pack_fake
from tests.support.service import Service

__all__ = ["Measured", "hold_connections", "pack_streamer"]

WORDS, WORD_SECONDS = 20, 0.1
_HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
_BODY = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
_HEAD = (
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    f"content-length: {len(_BODY)}\r\n\r\n"
)
_STREAM = _HEAD.encode() + _BODY
#: So many connections are made at once; all at the same instant would measure the backlog.
_AT_ONCE = 100


@dataclass
class Measured:
    """Bytes of the service's own process, its open descriptors, and what was answered.

    ``rounds``: memory at the height of each round of streams. ``answered``: idle connections that still
    answered at the end. ``streams``: those that came whole.
    """

    start: int = 0
    idle: int = 0
    rounds: list[int] = field(default_factory=list)
    end: int = 0
    descriptors_start: int = 0
    descriptors_idle: int = 0
    descriptors_end: int = 0
    answered: int = 0
    streams: int = 0


def pack_streamer(generator: Path, output: Path) -> Path:
    """Return a generator whose stream takes two seconds."""
    return pack_fake(generator, output, "--words", str(WORDS), "--word-seconds", str(WORD_SECONDS))


async def hold_connections(service: Service, *, idle: int, streams: int, rounds: int) -> Measured:
    """Hold ``idle`` connections open, and run ``streams`` streams at once beside them, ``rounds`` times."""
    _allow_descriptors(idle + streams + 512)
    process = psutil.Process(service.process.pid)
    port = int(service.url.rsplit(":", 1)[1])
    measured = Measured()
    await _run_streams(port, streams, process)  # the first round brings what every later one needs
    measured.start, measured.descriptors_start = process.memory_info().rss, process.num_fds()
    async with contextlib.AsyncExitStack() as stack:
        held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        for at in range(0, idle, _AT_ONCE):
            count = min(_AT_ONCE, idle - at)
            held += await asyncio.gather(
                *(stack.enter_async_context(_connection(port)) for _ in range(count))
            )
            await asyncio.gather(*(_ask_health(*each) for each in held[-count:]))
        measured.idle, measured.descriptors_idle = process.memory_info().rss, process.num_fds()
        for _ in range(rounds):
            whole, height = await _run_streams(port, streams, process)
            measured.streams += whole
            measured.rounds.append(height)
        for at in range(0, idle, _AT_ONCE):
            answers = await asyncio.gather(*(_ask_health(*each) for each in held[at : at + _AT_ONCE]))
            measured.answered += sum(answers)
    await asyncio.sleep(1)
    measured.end, measured.descriptors_end = process.memory_info().rss, process.num_fds()
    return measured


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


@contextlib.asynccontextmanager
async def _connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _ask_health(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Send one request on a kept connection; tells whether it was answered."""
    try:
        writer.write(_HEALTH)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        return False
    return head.startswith(b"HTTP/1.1 200")


async def _run_streams(port: int, count: int, process: psutil.Process) -> tuple[int, int]:
    """Run streams at once; return how many came whole, and the most memory seen meanwhile."""
    tasks = [asyncio.create_task(_read_stream(port)) for _ in range(count)]
    height = 0
    while not all(task.done() for task in tasks):
        height = max(height, process.memory_info().rss)
        await asyncio.sleep(0.2)
    return sum(task.result() for task in tasks), height


async def _read_stream(port: int) -> bool:
    async with _connection(port) as (reader, writer):
        writer.write(_STREAM)
        data = await asyncio.wait_for(reader.read(-1), 60)
    return data.count(b'"word') == WORDS and b"data: [DONE]" in data and data.endswith(b"0\r\n\r\n")
