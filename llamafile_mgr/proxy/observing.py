"""What can be measured now: engines, queues and memory, added to what was counted."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.embedding.embed_counters import EmbedderStats
from llamafile_mgr.planner.deviations import RunFacts
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.metrics import Sample, make_samples, render_metric
from llamafile_mgr.supervisor.pool import Pool
from llamafile_mgr.supervisor.process_memory import resident_bytes
from llamafile_mgr.supervisor.queue import CallQueue
from llamafile_mgr.supervisor.snapshots import EngineSnapshot

#: Field of the stats -> its metric, the help, and which label tells the keys of a field that has several.
_METRICS: dict[str, tuple[str, str, str | None]] = {
    "calls": ("llamafile_embedding_calls_total", "Embedding calls.", None),
    "texts": ("llamafile_texts_total", "Texts that were asked for.", None),
    "tokens": ("llamafile_prompt_tokens_total", "Tokens of embedded texts.", None),
    "batches": ("llamafile_engine_batches_total", "Batches of texts sent to engines.", None),
    "cache_hits": ("llamafile_cache_hits_total", "Vectors from the cache.", None),
    "cache_misses": ("llamafile_cache_misses_total", "Texts that were computed.", None),
    "deduplicated": ("llamafile_deduplicated_texts_total", "Texts that stood in a call already.", None),
    "failed": ("llamafile_failed_texts_total", "Texts without a vector.", None),
    "truncated": ("llamafile_truncated_texts_total", "Texts that were cut, by how.", "how"),
    "queue_depth": (
        "llamafile_waiting_texts",
        "Texts that wait for an engine, by priority class.",
        "priority",
    ),
    "waiting_seconds": (
        "llamafile_waiting_seconds",
        "How long texts waited to be sent to an engine, by priority class.",
        "priority",
    ),
    "tokenize_seconds": ("llamafile_tokenize_seconds", "Counting one text's tokens.", None),
    "engine_seconds": ("llamafile_batch_seconds", "One batch of texts with an engine.", None),
    "total_seconds": ("llamafile_embedding_seconds", "One embedding call, after its turn.", None),
}
_OF_ENGINES: dict[str, tuple[str, Callable[[EngineSnapshot], float | None]]] = {
    "llamafile_engine_restarts": ("Starts of an engine after its first.", attrgetter("restarts")),
    "llamafile_engine_in_flight": ("Requests that an engine works on.", attrgetter("in_flight")),
    "llamafile_engine_speed_ratio": (
        "An engine's throughput as a share of the best that it has shown.",
        attrgetter("speed"),
    ),
    "llamafile_engine_slow": (
        "Whether an engine's throughput is below half of its best.",
        attrgetter("slow"),
    ),
    "llamafile_engine_gpu_memory_bytes": (
        "GPU memory of an engine once it was ready, as the driver tells it.",
        lambda engine: None if engine.actual is None else engine.actual.gpu_bytes,
    ),
    "llamafile_engine_layers_offloaded": (
        "Layers of an engine that lie on GPUs, as it says itself.",
        lambda engine: _offloaded(engine.actual),
    ),
    "llamafile_engine_layers_planned": (
        "Layers of an engine that the plan puts on GPUs.",
        lambda engine: _offloaded(engine.planned),
    ),
    "llamafile_engine_deviations": (
        "Settings of an engine that are not as planned.",
        lambda engine: None if engine.actual is None else len(engine.deviations),
    ),
}
_KINDS = {"total": "counter", "seconds": "histogram"}


async def render_metrics(front: Front) -> str:
    """Return everything for ``/metrics``."""
    memory = await _weigh(front)
    snapshots = [pool.snapshot() for pool in front.pools]
    engines = [
        ({"model": pool.model, "engine": engine.name}, engine)
        for pool in snapshots
        for engine in pool.engines
    ]

    def of_engines(read: Callable[[EngineSnapshot], float | None]) -> list[Sample]:
        return [Sample(labels, value) for labels, each in engines if (value := read(each)) is not None]

    def of_queues(read: Callable[[CallQueue], float]) -> list[Sample]:
        return [Sample({"model": pool.plan.name}, read(pool.calls.queue)) for pool in front.pools]

    gauges = {
        "llamafile_model_ready": (
            "Whether a model can be asked.",
            [Sample({"model": pool.model, "role": pool.role}, pool.ready) for pool in snapshots],
        ),
        **{name: (text, of_engines(read)) for name, (text, read) in _OF_ENGINES.items()},
        "llamafile_engine_memory_bytes": (
            "Resident memory of an engine.",
            of_engines(lambda engine: memory.get(engine.pid, 0)),
        ),
        "llamafile_queue_items": ("Texts that run or wait.", of_queues(lambda queue: queue.items)),
        "llamafile_queue_tokens": (
            "Estimated tokens that run or wait.",
            of_queues(lambda queue: queue.tokens),
        ),
        "llamafile_proxy_memory_bytes": ("Resident memory of the proxy.", [Sample({}, memory[None])]),
        "llamafile_uptime_seconds": ("Since the proxy started.", [Sample({}, time.time() - front.started)]),
    }
    measured = [render_metric(name, "gauge", text, samples) for name, (text, samples) in gauges.items()]
    stats = {name: embedder.stats() for name, embedder in front.embedders.items()}
    return front.metrics.render() + render_embedding_metrics(stats) + "".join(measured)


def render_embedding_metrics(stats: Mapping[str, EmbedderStats]) -> str:
    """Return the lines for models' embedders; ``stats`` by model name."""
    return "".join(
        render_metric(name, _KINDS.get(name.rpartition("_")[2], "gauge"), text, _samples(stats, field, label))
        for field, (name, text, label) in _METRICS.items()
    )


def _samples(stats: Mapping[str, EmbedderStats], field: str, label: str | None) -> Iterator[Sample]:
    for model, each in stats.items():
        found = getattr(each, field)
        for key, value in sorted(found.items()) if label else [("", found)]:
            labels = {"model": model, **({label: str(key)} if label else {})}
            yield from make_samples(labels, value)


def _offloaded(facts: RunFacts | None) -> int | None:
    return None if facts is None or facts.layers is None else facts.layers[0]


async def describe_status(front: Front) -> dict[str, Any]:
    """Return what the status page shows; seconds, bytes, and times since 1970."""
    memory = await _weigh(front)
    return {
        "version": __version__,
        "uptime_seconds": round(time.time() - front.started, 1),
        "memory_bytes": memory[None],
        "models": [_describe_model(front, pool, memory) for pool in front.pools],
        "recent_errors": list(reversed(front.recent_errors)),
    }


def _describe_model(front: Front, pool: Pool, memory: Mapping[int | None, int]) -> dict[str, Any]:
    name, queue = pool.plan.name, pool.calls.queue
    return {
        "model": name,
        **front.describe(pool),
        "requests": sum(n for labels, n in front.metrics.requests.values.items() if labels[1] == name),
        "tokens_per_second": pool.calls.rate(),
        "seconds_p50": _finite(front.metrics.engine_seconds.quantile(0.5, name)),
        "seconds_p95": _finite(front.metrics.engine_seconds.quantile(0.95, name)),
        "queue": {
            "items": queue.items,
            "tokens": queue.tokens,
            "active": queue.active,
            "waiting": queue.waiting,
        },
        "engines": [
            {
                **_describe_engine(engine),
                "in_flight": engine.in_flight,
                "speed": engine.speed,
                "slow": engine.slow,
                "planned": _plain(engine.planned),
                "actual": _plain(engine.actual),
                "deviations": engine.deviations,
                "memory_bytes": None if engine.pid is None else memory.get(engine.pid),
            }
            for engine in pool.snapshot().engines
        ],
    }


def _plain(facts: RunFacts | None) -> dict[str, Any] | None:
    return None if facts is None else dataclasses.asdict(facts)


def describe_readiness(front: Front) -> tuple[bool, dict[str, Any]]:
    """Return whether every wanted model can be asked, and each model's state with its cause.

    A model that rests is no obstacle: its next call starts it.
    """
    pools = [pool.snapshot() for pool in front.pools]
    ready = all(pool.ready or pool.resting for pool in pools)
    models = [
        {
            "model": pool.model,
            "role": pool.role,
            "ready": pool.ready,
            "resting": pool.resting,
            "engines": [_describe_engine(engine) for engine in pool.engines],
        }
        for pool in pools
    ]
    return ready, {"status": "ready" if ready else "not ready", "models": models}


def _describe_engine(engine: EngineSnapshot) -> dict[str, Any]:
    return {
        "name": engine.name,
        "state": engine.state.value,
        "seconds": round(engine.age_seconds, 3),
        "restarts": engine.restarts,
        "cause": engine.cause,
    }


def _finite(bound: float | None) -> float | None:
    return None if bound == float("inf") else bound


async def _weigh(front: Front) -> dict[int | None, int]:
    """Return the resident bytes of every engine by its process, and for None those of this process alone.

    Off the loop: the system's list of processes is read for each engine.
    """
    pids = [
        engine.pid for pool in front.pools for engine in pool.snapshot().engines if engine.pid is not None
    ]

    def weigh() -> dict[int | None, int]:
        return {None: resident_bytes(os.getpid(), alone=True)} | {pid: resident_bytes(pid) for pid in pids}

    return await asyncio.to_thread(weigh)
