"""What can be measured now: engines, queues and memory, added to what was counted."""

from __future__ import annotations

import time

import psutil

from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.metrics import Sample, render_metric

__all__ = ["process_memory", "render_metrics"]


def render_metrics(front: Front) -> str:
    """Return everything for ``/metrics``."""
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
                Sample({"model": model, "engine": engine.name}, process_memory(engine.pid) or 0)
                for model, engine in engines
            ],
        ),
        "llamafile_queue_items": (
            "Texts that run or wait.",
            [Sample({"model": name}, each.queue.items) for name, each in front.queues.items()],
        ),
        "llamafile_queue_tokens": (
            "Estimated tokens that run or wait.",
            [Sample({"model": name}, each.queue.tokens) for name, each in front.queues.items()],
        ),
        "llamafile_proxy_memory_bytes": (
            "Resident memory of the proxy.",
            [Sample({}, process_memory(None) or 0)],
        ),
        "llamafile_uptime_seconds": ("Since the proxy started.", [Sample({}, time.time() - front.started)]),
    }
    measured = [render_metric(name, "gauge", text, samples) for name, (text, samples) in gauges.items()]
    return front.metrics.render() + "".join(measured)


def process_memory(pid: int | None) -> int | None:
    """Return resident bytes of a process, of this one for None; None when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
