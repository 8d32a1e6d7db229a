"""Load from many clients for minutes, with engines killed: no unpromised error, no growth."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from llamafile_mgr.store import Store
from tests.support.golden import GOLDEN, golden_cosine
from tests.support.models import write_tiny_generator
from tests.support.service import Service, run_program, running_service

CLIENTS = 12
KILL_SECONDS = 20.0
SAMPLE_SECONDS = 5.0
#: Growth of the proxy's memory, after the first fifth of the run, that is taken for a leak.
ALLOWED_GROWTH_BYTES = 40_000_000
ALLOWED_DESCRIPTORS = 40
#: What admission may answer: come back later.
PROMISED = (429, 503)
TEXTS = list(GOLDEN)
CHAT = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 12}


class Tally:
    """What was seen; ``wrong`` names answers that nobody promised."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.memory: list[int] = []
        self.descriptors: list[int] = []
        self.kills = 0


async def embed(http: httpx.AsyncClient, tally: Tally) -> None:
    path, key = random.choice([("/v1/embeddings", "input"), ("/api/embed", "input"), ("/embed", "inputs")])
    texts = random.choices(TEXTS, k=random.randint(1, 40))
    reply = await http.post(path, json={key: texts})
    note(tally, path, reply)
    if reply.status_code == 200:
        body = reply.json()
        vectors = (
            body if path == "/embed" else body.get("embeddings") or [d["embedding"] for d in body["data"]]
        )
        if len(vectors) != len(texts) or golden_cosine(texts[-1], vectors[-1]) < 0.999:
            tally.wrong.append(f"{path}: wrong vectors")


async def generate(http: httpx.AsyncClient, tally: Tally) -> None:
    reply = await http.post("/v1/chat/completions", json=CHAT)
    note(tally, "chat", reply)


async def stream(http: httpx.AsyncClient, tally: Tally) -> None:
    """Read a stream; an engine killed midway must be told as an error event, never as a clean end."""
    seen = b""
    try:
        async with http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as reply:
            async for piece in reply.aiter_bytes():
                seen += piece
                if random.random() < 0.02:
                    tally.outcomes["stream left"] += 1
                    return
        status = reply.status_code
    except httpx.RemoteProtocolError:
        tally.outcomes["stream cut"] += 1
        if seen and b'"error"' not in seen:
            tally.wrong.append("a stream was cut without an error event")
        return
    tally.outcomes[f"stream {status}"] += 1
    if status == 200 and not seen.endswith(b"data: [DONE]\n\n"):
        tally.wrong.append("a stream ended without [DONE]")
    elif status not in (200, *PROMISED):
        tally.wrong.append(f"stream {status}: {seen[:200]!r}")


async def wrong_request(http: httpx.AsyncClient, tally: Tally) -> None:
    reply = await http.post("/v1/embeddings", content=random.choice([b"{", b"[]", b'{"input":3}']))
    tally.outcomes[f"bad request {reply.status_code}"] += 1
    if reply.status_code != 400:
        tally.wrong.append(f"a bad request got {reply.status_code}")


def note(tally: Tally, path: str, reply: httpx.Response) -> None:
    tally.outcomes[f"{path} {reply.status_code}"] += 1
    if reply.status_code not in (200, *PROMISED):
        tally.wrong.append(f"{path} {reply.status_code}: {reply.text[:200]}")


async def one_client(url: str, end: float, tally: Tally) -> None:
    work = [embed, embed, embed, generate, stream, stream, wrong_request]
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        while time.monotonic() < end:
            try:
                await random.choice(work)(http, tally)
            except httpx.HTTPError as error:
                tally.wrong.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.5)


async def kill_engines(proxy: psutil.Process, end: float, tally: Tally) -> None:
    while time.monotonic() + KILL_SECONDS < end:
        await asyncio.sleep(KILL_SECONDS)
        engines = proxy.children()
        if engines:
            random.choice(engines).kill()
            tally.kills += 1


async def watch(proxy: psutil.Process, end: float, tally: Tally) -> None:
    while time.monotonic() < end:
        tally.memory.append(proxy.memory_info().rss)
        tally.descriptors.append(proxy.num_fds())
        await asyncio.sleep(SAMPLE_SECONDS)


async def run(service: Service, seconds: float) -> Tally:
    tally, end = Tally(), time.monotonic() + seconds
    proxy = psutil.Process(service.process.pid)
    clients = [one_client(service.url, end, tally) for _ in range(CLIENTS)]
    await asyncio.gather(*clients, kill_engines(proxy, end, tally), watch(proxy, end, tally))
    return tally


def report(tally: Tally) -> int:
    for name, count in sorted(tally.outcomes.items()):
        print(f"{count:8} {name}")
    settled = len(tally.memory) // 5
    growth = tally.memory[-1] - tally.memory[settled]
    descriptors = tally.descriptors[-1] - tally.descriptors[settled]
    print(f"{tally.kills} engines killed")
    print(f"memory {tally.memory[settled] / 1e6:.1f} -> {tally.memory[-1] / 1e6:.1f} MB")
    print(f"descriptors {tally.descriptors[settled]} -> {tally.descriptors[-1]}")
    for wrong, count in Counter(tally.wrong).most_common(20):
        print(f"NOT PROMISED {count} x {wrong}")
    failed = bool(tally.wrong) or growth > ALLOWED_GROWTH_BYTES or descriptors > ALLOWED_DESCRIPTORS
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    home = Path(__file__).parent.parent / "tests" / ".cache" / "home"
    pulled = run_program(home, "pull", "all-minilm-l6-v2")
    assert pulled.returncode == 0, pulled.stderr
    Store(home / "store").find("all-minilm-l6-v2")
    with tempfile.TemporaryDirectory() as folder:
        generator = write_tiny_generator(Path(folder) / "tiny-generator.gguf")
        arguments = ("--embed", "all-minilm-l6-v2", "--generate", str(generator))
        with running_service(home, *arguments) as service:
            return report(asyncio.run(run(service, options.minutes * 60)))


if __name__ == "__main__":
    sys.exit(main())
