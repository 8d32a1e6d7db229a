"""Counters and histograms, and their text for Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from llamafile_mgr.histograms import Histogram

Labels = tuple[str, ...]
_V = TypeVar("_V", int, Histogram)


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: ``suffix`` is appended to the metric's name."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


class _Family(Generic[_V]):
    """A metric with a value per combination of labels."""

    kind: ClassVar[str]

    def __init__(self, name: str, help_text: str, labels: Sequence[str]) -> None:
        self.name = name
        self.help_text = help_text
        self.values: dict[Labels, _V] = {}
        self._names = tuple(labels)

    def samples(self) -> Iterator[Sample]:
        """Return every line."""
        for labels, value in sorted(self.values.items(), key=lambda item: item[0]):
            yield from make_samples(dict(zip(self._names, labels, strict=True)), value)


class Counter(_Family[int]):
    """A number that only grows."""

    kind = "counter"

    def add(self, *labels: str) -> None:
        """Count one more."""
        self.values[labels] = self.values.get(labels, 0) + 1


class Timings(_Family[Histogram]):
    """A histogram of seconds."""

    kind = "histogram"

    def observe(self, seconds: float, *labels: str) -> None:
        """Count one observation."""
        histogram = self.values.get(labels)
        if histogram is None:
            histogram = self.values[labels] = Histogram()
        histogram.add(seconds)

    def quantile(self, share: float, *labels: str) -> float | None:
        """Return the upper bound of the bucket in which ``share`` of the observations end."""
        found = self.values.get(labels)
        return None if found is None else found.quantile(share)


def make_samples(labels: Mapping[str, str], value: float | Histogram) -> Iterable[Sample]:
    """Yield a number as it is, of a histogram cumulative buckets, the sum and the count."""
    if not isinstance(value, Histogram):
        yield Sample(labels, value)
        return
    for bound, seen in value.cumulative():
        edge = "+Inf" if bound == float("inf") else f"{bound:g}"
        yield Sample({**labels, "le": edge}, seen, "_bucket")
    yield Sample(labels, value.total, "_sum")
    yield Sample(labels, value.count, "_count")


def render_metric(name: str, kind: str, help_text: str, samples: Iterable[Sample]) -> str:
    """Return the lines of one metric."""
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    for sample in samples:
        labels = ",".join(f'{key}="{_escape(value)}"' for key, value in sample.labels.items())
        lines.append(f"{name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {sample.value:.10g}")
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
        every: Iterable[Counter | Timings] = vars(self).values()
        return "".join(render_metric(each.name, each.kind, each.help_text, each.samples()) for each in every)
