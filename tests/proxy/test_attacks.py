"""Attacks over raw sockets: each is refused, and the service answers the next honest caller."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ServeConfig
from llamafile_mgr.proxy.keys import Key, KeyRing
from tests.support.front import FakeModel, RunningFront, running_front

LIMITS = ServeConfig(
    drain_seconds=1,
    max_body_bytes=100_000,
    header_seconds=1.0,
    body_idle_seconds=1.0,
    idle_seconds=2.0,
    cors_origins=("https://app.example",),
)
MODELS = [FakeModel("e"), FakeModel("g", Role.GENERATE)]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningFront]:
    """Run a proxy with narrow limits, and check that it is unharmed afterwards."""
    async with running_front(tmp_path, MODELS, LIMITS) as running:
        yield running
        async with httpx.AsyncClient(base_url=running.url) as http:
            reply = await http.post("/v1/embeddings", json={"input": "x"})
            assert reply.status_code == 200


async def talk(port: int, data: bytes, *, seconds: float = 5.0) -> bytes:
    """Send bytes and return all that comes back until the connection ends or stays silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(data)
        await writer.drain()
        while piece := await asyncio.wait_for(reader.read(65536), seconds):
            received += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    return received


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1".encode(),
        b"host: localhost",
        b"connection: close",
        f"content-length: {len(body)}".encode(),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def statuses(received: bytes) -> list[int]:
    parts = received.split(b"HTTP/1.1 ")[1:]
    return [int(part[:3]) for part in parts]


BODY = b'{"input":"x"}'


@pytest.mark.parametrize(
    "headers",
    [
        [b"host: evil.example"],
        [b"host: localhost", b"host: evil.example"],
        [b"host: evil.example", b"host: localhost"],
        [b"host: 2130706433"],
        [b"host: localhost\x00.evil.example"],
        [b"host:"],
        [],
    ],
)
async def test_host_spoofing(running: RunningFront, headers: list[bytes]) -> None:
    lines = [b"POST /v1/embeddings HTTP/1.1", b"connection: close", b"content-length: 13", *headers]
    received = await talk(running.port, b"\r\n".join(lines) + b"\r\n\r\n" + BODY)
    assert statuses(received) in ([400], [403])


async def test_the_host_of_an_absolute_target_counts(running: RunningFront) -> None:
    request = b"GET http://%b/health HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n"
    assert statuses(await talk(running.port, request % (b"evil.example", b"localhost"))) == [403]
    assert statuses(await talk(running.port, request % (b"localhost", b"evil.example"))) == [200]


@pytest.mark.parametrize("origin", [b"https://evil.example", b"null", b"http://localhost:1", b"file://"])
async def test_pages_of_other_origins(running: RunningFront, origin: bytes) -> None:
    for kind in (b"text/plain", b"application/json", b"application/x-www-form-urlencoded"):
        request = post("/v1/embeddings", BODY, b"origin: " + origin, b"content-type: " + kind)
        received = await talk(running.port, request)
        assert statuses(received) == [403]
        assert b"access-control-allow" not in received.lower()


async def test_preflights(running: RunningFront) -> None:
    async with httpx.AsyncClient(base_url=running.url) as http:
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-os",
        }
        good = await http.options("/v1/embeddings", headers={**asked, "origin": "https://app.example"})
        assert good.status_code == 204
        assert good.headers["access-control-allow-origin"] == "https://app.example"
        assert good.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
        bad = await http.options("/v1/embeddings", headers={**asked, "origin": "https://evil.example"})
        assert bad.status_code == 403
        called = await http.post(
            "/v1/embeddings", json={"input": "x"}, headers={"origin": "https://app.example"}
        )
        assert called.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 13\r\ncontent-length: 0",
        b"content-length: 13\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked\r\ncontent-length: 13",
        b"content-length: 13, 13",
        b"content-length: +13",
        b"content-length: -1",
        b"content-length: 0x0d",
        b"content-length : 13",
        b" content-length: 13",
        b"transfer-encoding: chunked, identity\r\ncontent-length: 13",
        b"transfer-encoding: xchunked\r\ncontent-length: 13",
        b"x: a\rcontent-length: 13",
    ],
)
async def test_smuggling_shapes(running: RunningFront, head: bytes) -> None:
    smuggled = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    request = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n" + head + b"\r\n\r\n" + BODY + smuggled
    received = await talk(running.port, request, seconds=2.5)
    assert statuses(received)[:1] in ([400], [408], [501], [])


async def test_bad_chunks(running: RunningFront) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    for chunk in (b"zz\r\n", b"-1\r\nx\r\n", b"d;" + b"x" * 10 + b"\n" + BODY, b"ffffffffffffffffff\r\n"):
        assert 200 not in statuses(await talk(running.port, head + chunk, seconds=2.0))


@pytest.mark.parametrize("depth", [65, 900, 5000])
async def test_deeply_nested_json(running: RunningFront, depth: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        body = b'{"messages":' + opening * depth + b"1" + closing * depth + b"}"
        assert statuses(await talk(running.port, post("/v1/chat/completions", body))) == [400]


async def test_oversized_bodies(running: RunningFront) -> None:
    announced = b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n"
    assert statuses(await talk(running.port, announced)) == [413]
    chunked = b"POST /embed HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    pieces = (b"2710\r\n" + b"x" * 10_000 + b"\r\n") * 11
    assert statuses(await talk(running.port, chunked + pieces)) == [413]


async def test_a_large_head(running: RunningFront) -> None:
    started = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
    assert 200 not in statuses(await talk(running.port, started + b"x: " + b"y" * 300_000))
    many = b"".join(b"x-%d: y\r\n" % number for number in range(20_000))
    assert 200 not in statuses(await talk(running.port, started + many))


async def test_slow_clients_are_let_go(running: RunningFront) -> None:
    """A head that drips, a body that never comes, and a connection without a request."""

    async def drip() -> float:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        try:
            for byte in b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 1000:
                writer.write(bytes([byte]))
                await writer.drain()
                if reader.at_eof() or time.monotonic() - began > 8:
                    break
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        return time.monotonic() - began

    stalled = b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{"
    drips = [drip() for _ in range(30)]
    dripped, body, silent = await asyncio.gather(
        asyncio.gather(*drips),
        talk(running.port, stalled, seconds=8),
        talk(running.port, b"", seconds=8),
    )
    assert max(dripped) < 8
    assert statuses(body) == [408]
    assert statuses(silent) in ([408], [])


@pytest.mark.parametrize(
    "path",
    [
        "/../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "//evil.example/health",
        "/health/../metrics",
        "/v1/models/../../etc/passwd",
        "/v1/models/%00",
        "/%2e%2e/",
        "/v1/embeddings%00",
        "/health;x",
        "/HEALTH",
        "/static/..%5c..%5cwindows",
    ],
)
async def test_path_tricks(running: RunningFront, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
    assert statuses(await talk(running.port, request)) in ([404], [400], [405])


async def test_nothing_of_a_request_becomes_a_header(running: RunningFront) -> None:
    name = "x\r\nset-cookie: evil=1\r\n\r\n<script>"
    body = json.dumps({"input": "x", "model": name}).encode()
    headers = (b"x-request-id: a%0d%0aset-cookie: evil=1", b"traceparent: \xff\xfe")
    received = await talk(running.port, post("/v1/embeddings", body, *headers))
    head = received.split(b"\r\n\r\n")[0]
    assert statuses(received) == [200]
    assert b"\r\nset-cookie" not in head


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT"])
async def test_methods_that_nobody_needs(running: RunningFront, method: str) -> None:
    target = "localhost:80" if method == "CONNECT" else "/v1/embeddings"
    request = f"{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
    assert 200 not in statuses(await talk(running.port, request, seconds=3.0))


async def test_reading_never_changes_anything(running: RunningFront) -> None:
    """Every GET route twice: what is served stays the same."""
    async with httpx.AsyncClient(base_url=running.url) as http:
        before = (await http.get("/v1/models")).json()
        for path in ("/", "/health", "/ready", "/metrics", "/props", "/info", "/api/tags", "/api/ps"):
            assert (await http.get(path)).status_code == 200
        assert (await http.get("/v1/models")).json() == before


async def test_keys_guard_everything_but_health(tmp_path: Path) -> None:
    ring = KeyRing((Key("admin", "a" * 32), Key("user", "u" * 32)))
    async with (
        running_front(tmp_path, MODELS, keys=ring) as running,
        httpx.AsyncClient(base_url=running.url) as http,
    ):
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/ready")).json() == {"status": "ready"}
        for path in ("/v1/models", "/api/tags", "/metrics", "/props", "/info"):
            refused = await http.get(path)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        unread = await http.post("/v1/embeddings", content=b"{" * 1000)
        assert unread.status_code == 401
        user = {"authorization": f"Bearer {'u' * 32}"}
        assert (await http.post("/v1/embeddings", json={"input": "x"}, headers=user)).status_code == 200
        assert [m["model"] for m in (await http.get("/ready", headers=user)).json()["models"]]
        assert (await http.get("/metrics", headers=user)).status_code == 403
        admin = {"x-api-key": "a" * 32}
        assert (await http.get("/metrics", headers=admin)).status_code == 200


async def test_tls_with_a_given_certificate(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    name = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    making = await asyncio.create_subprocess_exec("openssl", *words.split(), *name, stderr=-3)
    assert await making.wait() == 0
    settings = ServeConfig(drain_seconds=1, tls_certificate=str(certificate), tls_key=str(key))
    async with running_front(tmp_path, [MODELS[0]], settings) as running:
        assert running.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(certificate))
        async with httpx.AsyncClient(base_url=running.url, verify=trust) as http:
            assert (await http.post("/v1/embeddings", json={"input": "x"})).status_code == 200
        assert statuses(await talk(running.port, post("/embed", b"{}"))) == []
