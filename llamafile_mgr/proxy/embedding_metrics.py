"""What the embedders counted, as metrics for Prometheus. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llamafile_mgr.embedding.embed_counters import EmbedderStats
from llamafile_mgr.histograms import Histogram
from llamafile_mgr.proxy.metrics import Sample, histogram_samples, render_metric

__all__ = ["render_embedding_metrics"]

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
_KINDS = {"total": "counter", "seconds": "histogram"}


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
            if isinstance(value, Histogram):
                yield from histogram_samples(labels, value.snapshot())
            else:
                yield Sample(labels, value)
