"""The request log: one JSON object a line, without bodies, keys or texts; and what is counted of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from llamafile_mgr.proxy.http import RequestProgress
from llamafile_mgr.proxy.metrics import ProxyMetrics
from llamafile_mgr.proxy.tracing import trace_id

_LOG = logging.getLogger("llamafile_mgr.access")


@dataclass(slots=True)
class LogEntry:
    """One request as it goes along. ``route``: the route's own path, so that labels stay few."""

    request_id: str
    method: str
    path: str
    route: str = "none"
    status: int = 0
    seconds: float = 0.0
    error: str | None = None
    progress: RequestProgress = field(default_factory=RequestProgress)


def log_request(metrics: ProxyMetrics, entry: LogEntry, headers: Mapping[str, str]) -> None:
    """Count a finished request and write its line."""
    progress = entry.progress
    model = progress.pool.plan.name if progress.pool is not None else ""
    metrics.requests.add(entry.route, model, str(entry.status))
    metrics.request_seconds.observe(entry.seconds, entry.route, model)
    if entry.error is not None:
        metrics.errors.add(model, entry.error)
    if progress.caller is not None:
        metrics.queue_seconds.observe(progress.caller.queue_seconds, model)
        metrics.engine_seconds.observe(progress.caller.engine_seconds, model)
    if _LOG.isEnabledFor(logging.INFO):
        _LOG.info("%s", orjson.dumps(_describe(entry, model, headers)).decode())


def _describe(entry: LogEntry, model: str, headers: Mapping[str, str]) -> dict[str, object]:
    caller = entry.progress.caller
    said: dict[str, object] = {
        "id": entry.request_id,
        "method": entry.method,
        "path": entry.path[:200],
        "status": entry.status,
        "seconds": round(entry.seconds, 6),
        "model": model or None,
        "texts": entry.progress.items or None,
        "queue_seconds": round(caller.queue_seconds, 6) or None if caller else None,
        "engine_seconds": round(caller.engine_seconds, 6) or None if caller else None,
        "error": entry.error,
        "trace": trace_id(headers),
        "agent": headers.get("user-agent", "")[:100],
    }
    return {key: value for key, value in said.items() if value is not None}
