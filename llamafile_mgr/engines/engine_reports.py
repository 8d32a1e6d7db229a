"""What a started engine tells of itself, by its log and its ``/props``. Pure.

Buffers count, not layers: ``offloaded 49/49 layers`` is printed also where a third of the weights stays in
main memory, and programs that were built without GPU support print no such line at all. Each family holds
its own words, and says where they come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_MIB = 1 << 20
#: Buffers in main memory: ``CPU``, ``CPU_Mapped``, ``CPU_REPACK``, ``AMX``, and ``CUDA_Host`` and its like.
_HOST = re.compile(r"(?:CPU|AMX|BLAS)|.*_Host$")
#: How one device's buffers are called beside its name: ``MTL0_Mapped``, ``CUDA0_Split``.
_KINDS = re.compile(r"_(?:Mapped|Private|Split)$")


@dataclass(frozen=True, slots=True)
class LogWords:
    """The lines in which a family tells how it runs.

    ``weights``: a buffer's name and its MiB. ``layers``: how many are offloaded, of how many. ``slots``,
    ``context`` (tokens of a slot), ``batch`` (tokens of a physical batch): one number each. ``causes``: what
    lines mean that explain why less is used than was asked for; the meanings take the match's groups.
    """

    weights: re.Pattern[str]
    layers: re.Pattern[str]
    slots: re.Pattern[str]
    context: re.Pattern[str]
    batch: re.Pattern[str]
    causes: tuple[tuple[re.Pattern[str], str], ...] = ()


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What is known of a running engine; None where nothing tells.

    ``weights``: bytes by the name of the device, main memory's among them. ``layers``: how many are
    offloaded, of how many. ``context``: tokens of a slot. ``batch``: tokens of a physical batch.
    ``gpu_bytes``: what the GPU's driver says that the process holds. ``causes``: what the engine says of
    what it does not use.
    """

    weights: Mapping[str, int] = field(default_factory=dict)
    layers: tuple[int, int] | None = None
    context: int | None = None
    slots: int | None = None
    batch: int | None = None
    gpu_bytes: int | None = None
    causes: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """Return the GPUs that hold weights, as the engine calls them."""
        return tuple(name for name, size in self.weights.items() if size and not _HOST.match(name))

    @property
    def on_gpu(self) -> bool | None:
        """Tell whether a GPU holds any of it, None where nothing tells."""
        if self.weights:
            return bool(self.devices)
        return None if self.gpu_bytes is None else self.gpu_bytes > 0


class LogReader:
    """Reads the log of one start, line by line. The first word on each thing counts: helper models that are
    loaded behind the model repeat the lines."""

    def __init__(self, words: LogWords) -> None:
        self._words = words
        self._weights: dict[str, int] = {}
        self._layers: tuple[int, int] | None = None
        self._numbers: dict[str, int] = {}
        self._causes: dict[str, None] = {}

    def note(self, line: str) -> None:
        """Take in one line."""
        words = self._words
        if found := words.weights.search(line):
            name = _KINDS.sub("", found.group(1))
            self._weights[name] = self._weights.get(name, 0) + int(float(found.group(2)) * _MIB)
        if self._layers is None and (found := words.layers.search(line)):
            self._layers = int(found.group(1)), int(found.group(2))
        for name in ("slots", "context", "batch"):
            pattern: re.Pattern[str] = getattr(words, name)
            if name not in self._numbers and (found := pattern.search(line)):
                self._numbers[name] = int(next(text for text in found.groups() if text))
        for pattern, meaning in words.causes:
            if found := pattern.search(line):
                self._causes[meaning.format(*(text.strip() for text in found.groups()))] = None

    def report(self) -> EngineReport:
        """Return what the lines so far tell."""
        return EngineReport(dict(self._weights), self._layers, **self._numbers, causes=tuple(self._causes))
