"""A connection without a socket: however the bytes are cut, the same requests are understood."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llamafile_mgr.proxy.connection import Connection, Connections
from llamafile_mgr.proxy.exchange import Exchange


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


async def echo(exchange: Exchange) -> None:
    """Answer with what was understood."""
    body = await exchange.read_body(10_000, 30)
    await asyncio.sleep(0)
    said = b"|".join(
        [exchange.method.encode(), exchange.target, exchange.headers.get("x", "").encode(), body]
    )
    await exchange.send(200, {}, said)


def request(number: int, body: bytes, *, chunked: bool) -> bytes:
    head = b"POST /%d HTTP/1.1\r\nhost: a\r\nX: v%d\r\n" % (number, number)
    if not chunked:
        return head + b"content-length: %d\r\n\r\n" % len(body) + body
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"transfer-encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"


async def feed(data: bytes, cuts: list[int]) -> Wire:
    """Give a connection the data in pieces, each when it is ready to read, and return what it wrote."""
    wire = Wire()
    shared = Connections(echo, 30, 30, secure=False, most=9, most_held=10_000)
    connection = Connection(shared)
    connection.connection_made(wire)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        while not wire.reading and not wire.closed:  # noqa: ASYNC110
            await asyncio.sleep(0)
        if wire.closed:
            break
        connection.data_received(data[start:end])
        if start % 2:
            await asyncio.sleep(0)
    while shared.tasks:  # noqa: ASYNC110
        await asyncio.sleep(0)
    connection.connection_lost(None)
    return wire


@settings(max_examples=150, deadline=None)
@given(
    bodies=st.lists(st.tuples(st.binary(max_size=40), st.booleans()), min_size=1, max_size=5),
    cuts=st.lists(st.integers(min_value=0, max_value=2000), max_size=12),
)
def test_how_bytes_are_cut_changes_nothing(bodies: list[tuple[bytes, bool]], cuts: list[int]) -> None:
    requests = [request(number, body, chunked=chunked) for number, (body, chunked) in enumerate(bodies)]
    wire = asyncio.run(feed(b"".join(requests), cuts))
    expected = b""
    for number, (body, _) in enumerate(bodies):
        said = b"POST|/%d|v%d|%b" % (number, number, body)
        expected += b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said)
    assert re.sub(rb"date: [^\r]+\r\n", b"", wire.sent) == expected
    assert not wire.closed


@settings(max_examples=300, deadline=None)
@given(
    garbage=st.binary(max_size=300),
    cuts=st.lists(st.integers(min_value=0, max_value=400), max_size=5),
    behind=st.booleans(),
)
def test_no_bytes_break_it(garbage: bytes, cuts: list[int], behind: bool) -> None:
    """Whatever comes, a good request before it is answered, and nothing is answered that was not asked."""
    good = request(0, b"x", chunked=False) if behind else b""
    wire = asyncio.run(feed(good + garbage, cuts))
    if behind:
        assert wire.sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.sent.count(b"HTTP/1.1 200 OK") <= 1 + garbage.count(b"HTTP/")
