"""What the embedders counted, as metrics for Prometheus. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from llamafile_mgr.embedding.embed_counters import EmbedderStats
from llamafile_mgr.histograms import Histogram
from llamafile_mgr.proxy.metrics import Sample, histogram_samples, render_metric

__all__ = ["render_embedding_metrics"]

_COUNTERS: dict[str, tuple[str, Callable[[EmbedderStats], int]]] = {
    "llamafile_embedding_calls_total": ("Embedding calls.", lambda stats: stats.calls),
    "llamafile_texts_total": ("Texts that were asked for.", lambda stats: stats.texts),
    "llamafile_prompt_tokens_total": ("Tokens of embedded texts.", lambda stats: stats.tokens),
    "llamafile_engine_batches_total": ("Batches of texts sent to engines.", lambda stats: stats.batches),
    "llamafile_cache_hits_total": ("Vectors from the cache.", lambda stats: stats.cache_hits),
    "llamafile_cache_misses_total": ("Texts that were computed.", lambda stats: stats.cache_misses),
    "llamafile_deduplicated_texts_total": (
        "Texts that stood in a call already.",
        lambda stats: stats.deduplicated,
    ),
    "llamafile_failed_texts_total": ("Texts without a vector.", lambda stats: stats.failed),
}
_HISTOGRAMS: dict[str, tuple[str, Callable[[EmbedderStats], Histogram]]] = {
    "llamafile_tokenize_seconds": ("Counting one text's tokens.", lambda stats: stats.tokenize_seconds),
    "llamafile_batch_seconds": ("One batch of texts with an engine.", lambda stats: stats.engine_seconds),
    "llamafile_embedding_seconds": ("One embedding call, after its turn.", lambda stats: stats.total_seconds),
}


def render_embedding_metrics(stats: Mapping[str, EmbedderStats]) -> str:
    """Return the lines for models' embedders; ``stats`` by model name."""
    parts = [
        render_metric(
            name, "counter", text, [Sample({"model": model}, read(each)) for model, each in stats.items()]
        )
        for name, (text, read) in _COUNTERS.items()
    ]
    parts.append(
        render_metric(
            "llamafile_truncated_texts_total",
            "counter",
            "Texts that were cut, by how.",
            _by(stats, "how", lambda each: each.truncated),
        )
    )
    parts.append(
        render_metric(
            "llamafile_waiting_texts",
            "gauge",
            "Texts that wait for an engine, by priority class.",
            _by(stats, "priority", lambda each: each.queue_depth),
        )
    )
    parts.append(
        render_metric(
            "llamafile_waiting_seconds",
            "histogram",
            "How long texts waited to be sent to an engine, by priority class.",
            _seconds_by_priority(stats),
        )
    )
    parts += [
        render_metric(name, "histogram", text, _seconds(stats, read))
        for name, (text, read) in _HISTOGRAMS.items()
    ]
    return "".join(parts)


def _by(
    stats: Mapping[str, EmbedderStats], label: str, read: Callable[[EmbedderStats], Mapping[str, int]]
) -> Iterator[Sample]:
    for model, each in stats.items():
        for key, value in sorted(read(each).items()):
            yield Sample({"model": model, label: key}, value)


def _seconds(
    stats: Mapping[str, EmbedderStats], read: Callable[[EmbedderStats], Histogram]
) -> Iterator[Sample]:
    for model, each in stats.items():
        yield from histogram_samples({"model": model}, read(each).snapshot())


def _seconds_by_priority(stats: Mapping[str, EmbedderStats]) -> Iterator[Sample]:
    for model, each in stats.items():
        for priority, histogram in sorted(each.waiting_seconds.items()):
            yield from histogram_samples({"model": model, "priority": priority.value}, histogram.snapshot())
