"""A model hub on loopback: real HTTP, a second host for the bytes, and faults on demand.

The hub listens on ``127.0.0.1`` and answers ``/ORG/REPO/resolve/REV/FILE`` with a redirect to the
"CDN" on ``localhost``, with the headers of Hugging Face. ``/plain/FILE`` is served by the hub itself,
without a digest. A fault is a function from request and reply to reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

REVISION = "0123456789abcdef0123456789abcdef01234567"
_SLICE = 16 * 1024


def content(size: int, seed: int = 1) -> bytes:
    """Return bytes that no two ranges share, beginning as a GGUF does."""
    return (b"GGUF" + random.Random(seed).randbytes(max(size - 4, 0)))[:size]


@dataclass(frozen=True)
class Request:
    """One request. ``role``: ``hub`` or ``cdn``. ``range``: half open, None for none."""

    role: str
    method: str
    path: str
    headers: dict[str, str]
    number: int
    range: tuple[int, int | None] | None

    @property
    def probe(self) -> bool:
        """Tell whether only the first byte is asked for."""
        return self.range == (0, 1)


@dataclass
class Reply:
    """One answer; the fields below ``body`` are how it goes wrong."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None
    stall_after: int | None = None
    rate: int | None = None
    reset: bool = False
    chunked: bool = False
    unframed: bool = False
    delay: float = 0.0


Fault = Callable[[Request, Reply], Reply]


def no_fault(request: Request, reply: Reply) -> Reply:
    """Leave the answer as it is."""
    return reply


class Hub:
    """Both servers, the files they have, and what has been asked and sent."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.files: dict[str, bytes] = {}
        self.fault: Fault = no_fault
        self.requests: list[Request] = []
        self.sent = 0
        self.ranges = True
        self.digests = True
        self.etag = "v1"
        self.connections = 0
        self.most_connections = 0
        self._servers: list[asyncio.Server] = []
        self._ports = {"hub": 0, "cdn": 0}

    def add(self, name: str, data: bytes) -> str:
        """Offer a file and return its digest."""
        self.files[name] = data
        return hashlib.sha256(data).hexdigest()

    @property
    def url(self) -> str:
        """Return the hub's address."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._ports['hub']}"

    @property
    def cdn(self) -> str:
        """Return the address of the host that has the bytes."""
        return f"http://localhost:{self._ports['cdn']}"

    def count(self, role: str = "cdn") -> int:
        """Return how many requests for more than the first byte a host got."""
        return sum(request.role == role and not request.probe for request in self.requests)

    async def start(self) -> None:
        """Listen on two free ports."""
        for role, host in (("hub", "127.0.0.1"), ("cdn", "localhost")):
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Little is on its way at any moment, so that what was sent is close to what was received.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
            listener.bind((host, 0))
            self._ports[role] = listener.getsockname()[1]

            async def serve(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, role: str = role
            ) -> None:
                await self._connection(role, reader, writer)

            tls = self._tls if role == "hub" else None
            self._servers.append(await asyncio.start_server(serve, sock=listener, ssl=tls))

    async def stop(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()

    async def _connection(
        self, role: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.transport.set_write_buffer_limits(high=_SLICE)
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)
        try:
            while (request := await self._read(role, reader)) is not None:
                reply = self.fault(request, self._answer(request))
                if not await self._send(reply, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.connections -= 1
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _read(self, role: str, reader: asyncio.StreamReader) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        if path.startswith("http://"):  # as a proxy is asked
            path = "/" + path.split("/", 3)[3]
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        wanted = None
        if headers.get("range", "").startswith("bytes="):
            first, _, last = headers["range"][6:].partition("-")
            wanted = (int(first), int(last) + 1 if last else None)
        number = sum(seen.role == role for seen in self.requests)
        request = Request(role, method, path, headers, number, wanted)
        self.requests.append(request)
        return request

    def _answer(self, request: Request) -> Reply:
        path = request.path.partition("?")[0]
        data = self.files.get(path.rsplit("/", 1)[-1])
        if data is None:
            return Reply(404, body=b"no such file")
        if request.role == "hub" and not path.startswith("/plain/"):
            headers = {"Location": f"{self.cdn}{path}?signature={request.number}", "X-Repo-Commit": REVISION}
            if self.digests:
                headers["X-Linked-Etag"] = f'"{hashlib.sha256(data).hexdigest()}"'
                headers["X-Linked-Size"] = str(len(data))
            return Reply(302, headers)
        headers = {"ETag": f'"{self.etag}-{len(data)}"', "Accept-Ranges": "bytes" if self.ranges else "none"}
        if request.range is None or not self.ranges:
            return Reply(200, headers, data)
        start, end = request.range
        end = len(data) if end is None else min(end, len(data))
        if start >= len(data):
            return Reply(416, {**headers, "Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return Reply(206, headers, data[start:end])

    async def _send(self, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        """Write an answer as its fields say; False when the connection must end."""
        if reply.delay:
            await asyncio.sleep(reply.delay)
        headers = dict(reply.headers)
        if reply.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif not reply.unframed:
            headers.setdefault("Content-Length", str(len(reply.body)))
        else:
            headers["Connection"] = "close"
        head = f"HTTP/1.1 {reply.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        writer.write(head.encode("latin-1") + b"\r\n")
        position = 0
        async for piece in _paced(reply):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if reply.chunked else piece)
            await writer.drain()
            position += len(piece)
            self.sent += len(piece)
        if reply.stall_after is not None:
            await asyncio.sleep(3600)
        if reply.cut_after is not None:
            if reply.reset:
                writer.transport.abort()
            return False
        if reply.chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return not reply.unframed


async def _paced(reply: Reply) -> AsyncIterator[bytes]:
    """Yield the body in slices, no further than the fault lets it come and no faster."""
    end = min(limit for limit in (len(reply.body), reply.cut_after, reply.stall_after) if limit is not None)
    step = _SLICE if reply.rate is None else max(1, min(_SLICE, reply.rate // 50))
    for start in range(0, end, step):
        piece = reply.body[start : min(start + step, end)]
        yield piece
        if reply.rate is not None:
            await asyncio.sleep(len(piece) / reply.rate)


@contextlib.asynccontextmanager
async def running_hub(tls: ssl.SSLContext | None = None) -> AsyncIterator[Hub]:
    """Run a hub while inside."""
    hub = Hub(tls)
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()
