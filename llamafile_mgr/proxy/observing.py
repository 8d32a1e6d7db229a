"""What can be measured now: engines, queues and memory, added to what was counted."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.proxy.embedding_metrics import render_embedding_metrics
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.metrics import Sample, render_metric
from llamafile_mgr.supervisor.pool import Pool
from llamafile_mgr.supervisor.process_memory import resident_bytes

__all__ = ["describe_status", "render_metrics"]


async def render_metrics(front: Front) -> str:
    """Return everything for ``/metrics``."""
    memory = await _weigh(front)
    snapshots = [pool.snapshot() for pool in front.pools]
    engines = [(pool.model, engine) for pool in snapshots for engine in pool.engines]
    gauges = {
        "llamafile_model_ready": (
            "Whether a model can be asked.",
            [Sample({"model": pool.model, "role": pool.role}, pool.ready) for pool in snapshots],
        ),
        "llamafile_engine_restarts": (
            "Starts of an engine after its first.",
            [Sample({"model": model, "engine": engine.name}, engine.restarts) for model, engine in engines],
        ),
        "llamafile_engine_in_flight": (
            "Requests that an engine works on.",
            [Sample({"model": model, "engine": engine.name}, engine.in_flight) for model, engine in engines],
        ),
        "llamafile_engine_memory_bytes": (
            "Resident memory of an engine.",
            [
                Sample({"model": model, "engine": engine.name}, memory.get(engine.pid, 0))
                for model, engine in engines
            ],
        ),
        "llamafile_engine_speed_ratio": (
            "An engine's throughput as a share of the best that it has shown.",
            [
                Sample({"model": model, "engine": engine.name}, engine.speed)
                for model, engine in engines
                if engine.speed is not None
            ],
        ),
        "llamafile_engine_slow": (
            "Whether an engine's throughput is below half of its best.",
            [Sample({"model": model, "engine": engine.name}, engine.slow) for model, engine in engines],
        ),
        "llamafile_queue_items": (
            "Texts that run or wait.",
            [Sample({"model": pool.plan.name}, pool.calls.queue.items) for pool in front.pools],
        ),
        "llamafile_queue_tokens": (
            "Estimated tokens that run or wait.",
            [Sample({"model": pool.plan.name}, pool.calls.queue.tokens) for pool in front.pools],
        ),
        "llamafile_proxy_memory_bytes": (
            "Resident memory of the proxy.",
            [Sample({}, memory[None])],
        ),
        "llamafile_uptime_seconds": ("Since the proxy started.", [Sample({}, time.time() - front.started)]),
    }
    measured = [render_metric(name, "gauge", text, samples) for name, (text, samples) in gauges.items()]
    stats = {name: embedder.stats() for name, embedder in front.embedders.items()}
    return front.metrics.render() + render_embedding_metrics(stats) + "".join(measured)


async def describe_status(front: Front) -> dict[str, Any]:
    """Return what the status page shows; seconds, bytes, and times since 1970."""
    memory = await _weigh(front)
    return {
        "version": __version__,
        "uptime_seconds": round(time.time() - front.started, 1),
        "memory_bytes": memory[None],
        "models": [_describe_model(front, pool, memory) for pool in front.pools],
        "recent_errors": [
            {"time": error.time, "status": error.status, "path": error.path, "message": error.message}
            for error in reversed(front.recent_errors)
        ],
    }


def _describe_model(front: Front, pool: Pool, memory: Mapping[int | None, int]) -> dict[str, Any]:
    snapshot, plan = pool.snapshot(), pool.plan
    queue, embedder = pool.calls.queue, front.embedders.get(plan.name)
    counted = [value for labels, value in front.metrics.requests.values.items() if labels[1] == plan.name]
    return {
        "model": plan.name,
        "role": plan.role.value,
        "ready": snapshot.ready,
        "engine_family": plan.family.value,
        "dimensions": plan.dimensions,
        "max_tokens": plan.max_tokens,
        "vector_space": embedder.vector_space if embedder is not None else None,
        "requests": int(sum(counted)),
        "tokens_per_second": pool.calls.rate(),
        "seconds_p50": _finite(front.metrics.engine_seconds.quantile(0.5, plan.name)),
        "seconds_p95": _finite(front.metrics.engine_seconds.quantile(0.95, plan.name)),
        "queue": {
            "items": queue.items,
            "tokens": queue.tokens,
            "active": queue.active,
            "waiting": queue.waiting,
        },
        "engines": [
            {
                "name": engine.name,
                "state": engine.state.value,
                "seconds": round(engine.age_seconds, 1),
                "restarts": engine.restarts,
                "in_flight": engine.in_flight,
                "cause": engine.cause,
                "speed": engine.speed,
                "slow": engine.slow,
                "memory_bytes": None if engine.pid is None else memory.get(engine.pid),
            }
            for engine in snapshot.engines
        ],
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
