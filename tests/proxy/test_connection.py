"""HTTP/1.1 as clients speak it, over raw sockets: order, ends of connections, and bodies that come late."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ServeConfig
from llamafile_mgr.proxy.exchange import render_head
from llamafile_mgr.proxy.keys import Key, KeyRing
from tests.proxy.test_attacks import BODY, post, statuses, talk
from tests.support.front import FakeModel, RunningFront, running_front

LIMITS = ServeConfig(
    drain_seconds=1, max_body_bytes=1_000_000, header_seconds=1.0, body_idle_seconds=1.0, idle_seconds=1.5
)
MODELS = [FakeModel("e"), FakeModel("g", Role.GENERATE, "--words 5 --word-seconds 0.05")]
DATE = re.compile(rb"date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n")
GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningFront]:
    async with running_front(tmp_path, MODELS, LIMITS) as running:
        yield running


def keeping(request: bytes) -> bytes:
    return request.replace(b"connection: close\r\n", b"")


async def test_pipelined_requests_are_answered_in_order(running: RunningFront) -> None:
    slow = keeping(post("/v1/chat/completions", b'{"messages":[{"role":"user","content":"x"}]}'))
    missing = b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n"
    received = await talk(running.port, slow + GET + missing + keeping(post("/embed", BODY)) + LAST)
    assert statuses(received) == [200, 200, 404, 200, 200]
    assert received.index(b"chat.completion") < received.index(b"/nowhere")


async def test_what_follows_a_last_request_is_not_answered(running: RunningFront) -> None:
    assert statuses(await talk(running.port, LAST + GET)) == [200]
    assert statuses(await talk(running.port, LAST + b"\x00\xff no HTTP")) == [200]


async def test_a_whole_request_before_nonsense_is_answered(running: RunningFront) -> None:
    assert statuses(
        await talk(running.port, keeping(post("/v1/embeddings", BODY)) + b"\x16\x03\x01\r\n")
    ) in (
        [200],
        [200, 400],
    )
    assert statuses(await talk(running.port, b"\x16\x03\x01\x02\x00\r\n\r\n")) == [400]


async def test_nonsense_does_not_go_into_a_stream(running: RunningFront) -> None:
    body = b'{"messages":[{"role":"user","content":"x"}],"stream":true}'
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(keeping(post("/v1/chat/completions", body)))
    first = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x16\x03\x01\r\n")
    rest = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert statuses(first) == [200]
    stream, end, after = rest.partition(b"\r\n0\r\n\r\n")
    assert (b"HTTP/1.1" in stream, bool(end), statuses(after)) == (False, True, [400])


async def test_a_client_of_http_1_0(running: RunningFront) -> None:
    """It knows no chunks: a stream ends with its connection."""
    body = b'{"messages":[{"role":"user","content":"x"}],"stream":true}'
    head = b"POST /v1/chat/completions HTTP/1.0\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    received = await talk(running.port, head % len(body) + body)
    assert statuses(received) == [200]
    answer_head, _, rest = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in answer_head
    assert rest.startswith((b"data: ", b": "))
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_head_has_a_length_and_no_body(running: RunningFront) -> None:
    received = await talk(
        running.port, b"HEAD /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    head, _, body = received.partition(b"\r\n\r\n")
    assert (statuses(received), body) == ([200], b"")
    assert b"content-length: 0" not in head


async def test_an_offer_of_http_2_is_declined(running: RunningFront) -> None:
    """As Java's client makes it with each first request; the connection goes on."""
    offer = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAEAAEAAAAIAAAAA")
    request = keeping(post("/v1/embeddings", BODY, *offer))
    assert statuses(await talk(running.port, request + LAST)) == [200, 200]


async def test_a_body_is_asked_for(running: RunningFront) -> None:
    """As curl does for large ones; one that is refused by its head alone is not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(post("/v1/embeddings", BODY, b"expect: 100-continue").removesuffix(BODY))
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert statuses(await asyncio.wait_for(reader.read(), 5)) == [200]
    writer.close()
    head = post("/nowhere", BODY, b"expect: 100-continue").removesuffix(BODY)
    received = await talk(running.port, keeping(head))
    assert statuses(received) == [404]
    assert b"connection: close" in received


async def test_a_large_body_in_pieces(running: RunningFront) -> None:
    text = json.dumps({"input": ["x" * 900] * 700}).encode()
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece)
        for piece in (text[at : at + 50_000] for at in range(0, len(text), 50_000))
    )
    received = await talk(
        running.port, head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n", seconds=30
    )
    assert statuses(received) == [200]


async def test_an_early_answer_reaches_a_client_that_still_sends(tmp_path: Path) -> None:
    """Closing at once would reset the connection and destroy the answer on its way."""
    ring = KeyRing((Key("user", "u" * 32),))
    async with (
        running_front(tmp_path, [MODELS[0]], LIMITS, keys=ring) as running,
        httpx.AsyncClient(base_url=running.url) as http,
    ):
        for _ in range(5):
            refused = await http.post("/v1/embeddings", content=b"x" * 900_000)
            assert refused.status_code == 401
            too_large = await http.post(
                "/v1/embeddings", content=b"x" * 3_000_000, headers={"x-api-key": "u" * 32}
            )
            assert too_large.status_code == 413


async def test_a_connection_goes_on_after_an_early_answer(running: RunningFront) -> None:
    """The rest of the body is dropped; it is no request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    smuggled = GET * 3
    writer.write(b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(smuggled))
    first = await asyncio.wait_for(reader.readuntil(b"}"), 5)
    writer.write(smuggled + LAST)
    rest = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert statuses(first) == [404]
    assert statuses(rest) == [200]


async def test_a_client_that_does_not_read_is_let_go(running: RunningFront) -> None:
    """Its answers fill the socket; nothing is buffered without end for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
    transport = writer.transport
    assert isinstance(transport, asyncio.Transport)
    transport.pause_reading()
    texts = json.dumps({"input": [f"text {number}" for number in range(400)]}).encode()
    for _ in range(12):
        writer.write(keeping(post("/v1/embeddings", texts)))
    await asyncio.sleep(0.1)
    gone = asyncio.create_task(writer.wait_closed())
    transport.resume_reading()
    writer.close()
    await asyncio.wait_for(asyncio.gather(gone, return_exceptions=True), 10)
    async with httpx.AsyncClient(base_url=running.url) as http:
        assert (await http.post("/v1/embeddings", json={"input": "x"})).status_code == 200
    for _ in range(500):
        if running.supervisor.find("e").calls.queue.items == 0:
            break
        await asyncio.sleep(0.02)
    assert running.supervisor.find("e").calls.queue.items == 0
    del reader


async def test_an_upload_that_is_under_way_is_answered_while_stopping(tmp_path: Path) -> None:
    """The rest of its body comes after the stop has begun; idle connections end at once."""
    settings = ServeConfig(drain_seconds=5, body_idle_seconds=5.0)
    async with running_front(tmp_path, [MODELS[0]], settings) as running:
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", running.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        request = keeping(post("/v1/embeddings", BODY))
        writer.write(request[:-5])
        await asyncio.sleep(0.2)
        stopping = asyncio.create_task(running.server.stop(5.0))
        assert await asyncio.wait_for(idle_reader.read(), 2) == b""
        writer.write(request[-5:])
        assert statuses(await asyncio.wait_for(reader.read(), 5)) == [200]
        await asyncio.wait_for(stopping, 5)
        for each in (writer, idle_writer):
            each.close()


async def test_an_idle_connection_ends(running: RunningFront) -> None:
    received = await asyncio.wait_for(talk(running.port, GET, seconds=8), 6)
    assert statuses(received) == [200]


@pytest.mark.parametrize(
    ("value", "sent"),
    [("plain", b"plain"), ("a\r\nset-cookie: b", b"a??set-cookie: b"), ("\x00\x7f\té", b"??\t\xe9")],
)
def test_no_value_ends_its_line(value: str, sent: bytes) -> None:
    assert DATE.sub(b"", render_head(200, {"x": value})) == b"HTTP/1.1 200 OK\r\nx: " + sent + b"\r\n\r\n"
