"""Counters and histograms, and their text for Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Counter", "Histogram", "ProxyMetrics", "Sample", "histogram_samples", "render_metric"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

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


class Histogram:
    """Seconds by buckets per combination of labels."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, labels: Sequence[str]) -> None:
        self.name = name
        self.help_text = help_text
        self._names = tuple(labels)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, seconds: float, *labels: str) -> None:
        """Count one observation."""
        counts = self._counts.setdefault(labels, [0] * (len(_SECONDS) + 1))
        counts[bisect_left(_SECONDS, seconds)] += 1
        self._sums[labels] = self._sums.get(labels, 0.0) + seconds

    def quantile(self, share: float, *labels: str) -> float | None:
        """Return the upper bound of the bucket in which ``share`` of the observations end."""
        counts = self._counts.get(labels)
        if not counts:
            return None
        wanted, seen = share * sum(counts), 0
        for bound, count in zip((*_SECONDS, float("inf")), counts, strict=True):
            seen += count
            if seen >= wanted:
                return bound
        return None

    def samples(self) -> Iterable[Sample]:
        """Return every line: cumulative buckets, the sum and the count."""
        for labels, counts in sorted(self._counts.items()):
            named = dict(zip(self._names, labels, strict=True))
            yield from histogram_samples(named, _SECONDS, counts, self._sums[labels])


def histogram_samples(
    labels: Mapping[str, str], bounds: Sequence[float], counts: Sequence[int], total: float
) -> Iterable[Sample]:
    """Yield cumulative buckets, the sum and the count; ``counts`` has one more than ``bounds``."""
    seen = 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        seen += count
        edge = "+Inf" if bound == float("inf") else f"{bound:g}"
        yield Sample({**labels, "le": edge}, seen, "_bucket")
    yield Sample(labels, total, "_sum")
    yield Sample(labels, seen, "_count")


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
        self.request_seconds = Histogram(
            "llamafile_request_seconds", "From a request's head to its answer's end.", ("route", "model")
        )
        self.queue_seconds = Histogram("llamafile_queue_wait_seconds", "Waiting for a turn.", ("model",))
        self.engine_seconds = Histogram("llamafile_engine_seconds", "From turn to answer.", ("model",))

    def render(self) -> str:
        """Return all of them as text."""
        every: list[Counter | Histogram] = [
            self.requests,
            self.errors,
            self.request_seconds,
            self.queue_seconds,
            self.engine_seconds,
        ]
        return "".join(render_metric(each.name, each.kind, each.help_text, each.samples()) for each in every)
