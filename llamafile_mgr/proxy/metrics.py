"""Counters and histograms, and their text for Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llamafile_mgr.histograms import Histogram, HistogramSnapshot

__all__ = ["Counter", "ProxyMetrics", "Sample", "Timings", "histogram_samples", "render_metric"]

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: ``suffix`` is appended to the metric's name."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


class Counter:
    """A number per combination of labels that only grows."""

    kind = "counter"

    def __init__(self, name: str, help_text: str, labels: Sequence[str]) -> None:
        self.name = name
        self.help_text = help_text
        self._names = tuple(labels)
        self.values: dict[Labels, float] = {}

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """Add ``amount``."""
        self.values[labels] = self.values.get(labels, 0.0) + amount

    def samples(self) -> Iterable[Sample]:
        """Return every line."""
        for labels, value in sorted(self.values.items()):
            yield Sample(dict(zip(self._names, labels, strict=True)), value)


class Timings:
    """A histogram of seconds per combination of labels."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, labels: Sequence[str]) -> None:
        self.name = name
        self.help_text = help_text
        self._names = tuple(labels)
        self._values: dict[Labels, Histogram] = {}

    def observe(self, seconds: float, *labels: str) -> None:
        """Count one observation."""
        self._values.setdefault(labels, Histogram()).add(seconds)

    def quantile(self, share: float, *labels: str) -> float | None:
        """Return the upper bound of the bucket in which ``share`` of the observations end."""
        found = self._values.get(labels)
        return None if found is None else found.snapshot().quantile(share)

    def samples(self) -> Iterable[Sample]:
        """Return every line: cumulative buckets, the sum and the count."""
        for labels, values in sorted(self._values.items(), key=lambda each: each[0]):
            yield from histogram_samples(dict(zip(self._names, labels, strict=True)), values.snapshot())


def histogram_samples(labels: Mapping[str, str], histogram: HistogramSnapshot) -> Iterable[Sample]:
    """Yield cumulative buckets, the sum and the count."""
    for bound, seen in histogram.cumulative():
        edge = "+Inf" if bound == float("inf") else f"{bound:g}"
        yield Sample({**labels, "le": edge}, seen, "_bucket")
    yield Sample(labels, histogram.total, "_sum")
    yield Sample(labels, histogram.count, "_count")


def render_metric(name: str, kind: str, help_text: str, samples: Iterable[Sample]) -> str:
    """Return the lines of one metric."""
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    for sample in samples:
        labels = ",".join(f'{key}="{_escape(value)}"' for key, value in sample.labels.items())
        lines.append(
            f"{name}{sample.suffix}{{{labels}}} {sample.value:.10g}"
            if labels
            else f"{name} {sample.value:.10g}"
        )
    return "\n".join(lines) + "\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class ProxyMetrics:
    """What the proxy counts by itself. Labels hold only what we made: routes, models, statuses, codes."""

    def __init__(self) -> None:
        self.requests = Counter(
            "llamafile_requests_total", "Answered requests.", ("route", "model", "status")
        )
        self.errors = Counter("llamafile_errors_total", "Refused and failed requests.", ("model", "code"))
        self.request_seconds = Timings(
            "llamafile_request_seconds", "From a request's head to its answer's end.", ("route", "model")
        )
        self.queue_seconds = Timings("llamafile_queue_wait_seconds", "Waiting for a turn.", ("model",))
        self.engine_seconds = Timings("llamafile_engine_seconds", "From turn to answer.", ("model",))

    def render(self) -> str:
        """Return all of them as text."""
        every: list[Counter | Timings] = [
            self.requests,
            self.errors,
            self.request_seconds,
            self.queue_seconds,
            self.engine_seconds,
        ]
        return "".join(render_metric(each.name, each.kind, each.help_text, each.samples()) for each in every)
