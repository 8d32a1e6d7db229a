"""What one client can make the server hold, and how long the others wait meanwhile."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ServeConfig
from llamafile_mgr.proxy.listening import most_connections
from tests.proxy.test_attacks import BODY, post, statuses, talk
from tests.support.front import FakeModel, running_front

MIB = 1 << 20
#: Asked with ``CHAT``, it answers after a second and a half.
SLOW = FakeModel("g", Role.GENERATE, "--words 3 --word-seconds 0.5")
CHAT = b'{"messages":[{"role":"user","content":"x"}],"stream":true}'
CHUNKED = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
_SERVE = """
import asyncio, sys
from pathlib import Path
from tests.support.front import FakeModel, running_front

async def main():
    async with running_front(Path(sys.argv[1]), [FakeModel("e")]) as running:
        print(running.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)

try:
    import uvloop
except ImportError:
    asyncio.run(main())
else:
    uvloop.run(main())
"""


@contextmanager
def served(home: Path) -> Iterator[tuple[int, int]]:
    """Serve in a process of its own; give its port and its number."""
    command = [sys.executable, "-c", _SERVE, str(home)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.stdin.close()
            process.wait(20)


def pump(port: int, first: bytes, unit: bytes, size: int) -> bytes:
    """Send ``unit`` again and again, and return what is answered."""
    with closing(socket.create_connection(("127.0.0.1", port), 60)) as sock:
        try:
            sock.sendall(first)
            for _ in range(size // len(unit)):
                sock.sendall(unit)
        except OSError:
            pass  # refused: the answer is there already, unless it was lost with the connection
        try:
            return sock.recv(4096)
        except OSError:
            return b""


async def closed(writers: Iterable[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


def peak_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


ATTACKS = {
    "one endless trailer": (CHUNKED + b"0\r\nx: ", b"y" * 65536, 48 * MIB),
    "one endless name of a trailer": (CHUNKED + b"0\r\n", b"y" * 65536, 48 * MIB),
    "trailers": (CHUNKED + b"0\r\n", b"x:\r\n" * 16384, 32 * MIB),
    "one endless extension": (CHUNKED + b"1;", b"x" * 65536, 48 * MIB),
    "extensions": (CHUNKED + b"1", b";x=y" * 16384, 48 * MIB),
    "chunks of two bytes": (CHUNKED, b"2\r\n  \r\n" * 8192, 112 * MIB),
    "a head": (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: ", b"y" * 65536, 48 * MIB),
    "headers": (b"GET /health HTTP/1.1\r\nhost: localhost\r\n", b"x:\r\n" * 16384, 48 * MIB),
    "requests ahead": (b"", b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n" * 4000, 8 * MIB),
    "offers of another protocol": (
        b"",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n" * 1000,
        8 * MIB,
    ),
    "arrays": (
        post("/v1/embeddings", b"").replace(b"length: 0", b"length: %d" % (48 * MIB)) + b'{"input":[[]   ',
        b",[]," * 16384,
        48 * MIB,
    ),
    **{
        f"large body {number}": (
            post("/v1/embeddings", b"").replace(b"length: 0", b"length: %d" % (60 * MIB)),
            b" " * MIB,
            60 * MIB,
        )
        for number in range(20)
    },
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_everything_at_once_stays_small_and_stops_nobody(tmp_path: Path) -> None:
    with served(tmp_path) as (port, pid), httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        threads = [threading.Thread(target=pump, args=(port, *attack)) for attack in ATTACKS.values()]
        for thread in threads:
            thread.start()
        waits = []
        while any(thread.is_alive() for thread in threads):
            began = time.monotonic()
            assert http.get("/health", timeout=30).status_code == 200
            waits.append(time.monotonic() - began)
            time.sleep(0.01)
        assert http.post("/v1/embeddings", content=BODY).status_code == 200
        print(f"health: {len(waits)} times, at most {max(waits) * 1000:.0f} ms; peak {peak_mib(pid)} MiB")
        assert peak_mib(pid) < 300
        # A body of 60 MiB alone takes the parser a quarter of a second, and this process disturbs it.
        assert sorted(waits)[len(waits) * 9 // 10] < 1.0
        assert max(waits) < 4.0


@pytest.mark.parametrize("name", ["one endless trailer", "chunks of two bytes", "extensions", "headers"])
def test_what_stands_around_a_body_is_refused(tmp_path: Path, name: str) -> None:
    with served(tmp_path) as (port, _):
        began = time.monotonic()
        assert statuses(pump(port, *ATTACKS[name]))[:1] in ([400], [431])
        assert time.monotonic() - began < 5.0


async def test_large_bodies_share_a_bound_and_give_it_back(tmp_path: Path) -> None:
    settings = ServeConfig(drain_seconds=1, max_body_bytes=1_000_000)
    async with running_front(tmp_path, [FakeModel("e")], settings) as running:
        shared = running.server._shared
        body = BODY[:-1] + b" " * 900_000
        holding = []
        for number in (1, 2):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(post("/v1/embeddings", body + b"}").removesuffix(b"}"))
            holding.append((reader, writer))
            while shared.held < 900_000 * number:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        refused = await talk(running.port, post("/v1/embeddings", body + b"}"))
        assert statuses(refused) == [429]
        assert b"retry-after: " in refused
        assert statuses(await talk(running.port, post("/v1/embeddings", BODY))) == [200]
        for reader, writer in holding:
            writer.write(b"}")
            assert statuses(await reader.read()) == [200]
            await closed([writer])
        assert shared.held == 0
        assert statuses(await talk(running.port, post("/v1/embeddings", body + b"}"))) == [200]
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(post("/v1/embeddings", body + b"}").removesuffix(b"}"))
        while shared.held < 900_000:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        writer.transport.abort()
        await closed([writer])
        while shared.held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_body_that_drips_is_not_waited_for(tmp_path: Path) -> None:
    settings = ServeConfig(drain_seconds=1, body_idle_seconds=0.5)
    async with running_front(tmp_path, [FakeModel("e")], settings) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(post("/v1/embeddings", BODY + b" " * 50_000)[:-50_000])
        reading = asyncio.create_task(reader.read())
        for _ in range(60):
            writer.write(b" ")
            await asyncio.sleep(0.05)
            if reading.done():
                break
        assert statuses(await asyncio.wait_for(reading, 5)) == [408]
        await closed([writer])


async def test_connections_have_a_bound(tmp_path: Path) -> None:
    """The oldest that asks for nothing has to go; where all are busy the newest is refused."""
    settings = ServeConfig(drain_seconds=1, max_connections=3)
    async with running_front(tmp_path, [SLOW], settings) as running:
        idle = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(3)]
        await asyncio.sleep(0.1)
        asked = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(post("/v1/chat/completions", CHAT))
            asked.append((reader, writer))
            await asyncio.sleep(0.1)
        for reader, _ in idle:
            with pytest.raises((ConnectionError, EOFError)):
                await asyncio.wait_for(reader.readexactly(1), 2)
        assert len(running.server._shared.open) == 3
        assert statuses(await talk(running.port, b"")) == [503]
        assert [statuses(await reader.read()) for reader, _ in asked] == [[200]] * 3
        await closed([writer for _, writer in (*idle, *asked)])


def test_connections_leave_files_to_others() -> None:
    assert most_connections(1) == 1
    assert 1 <= most_connections(10**9) <= 10**9


@pytest.mark.parametrize("kind", ["half", "gone"])
async def test_a_client_that_ended_its_side(tmp_path: Path, kind: str) -> None:
    """One that listens still gets its answer; one that left is noticed, and its call given up."""
    async with running_front(tmp_path, [SLOW]) as running:
        queue = running.supervisor.find("g").calls.queue
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(post("/v1/chat/completions", CHAT))
        while not queue.items:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        began = time.monotonic()
        if kind == "half":
            writer.write_eof()
            received = await asyncio.wait_for(reader.read(), 10)
            assert [each for each in statuses(received) if each != 100] == [200]
            assert received.endswith(b"0\r\n\r\n")
            await closed([writer])
        else:
            await closed([writer])
            while queue.items:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert time.monotonic() - began < 2.0
