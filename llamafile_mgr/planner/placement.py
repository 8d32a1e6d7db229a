"""On which GPUs a model computes, and with how many layers. Pure.

``--gpu X`` is always explicit: engines fall back to the processor silently otherwise. ``-ngl`` is passed
only where the engine does not fit the layers itself. The memory of unified GPUs is main memory
and is counted there, once.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.llamafile import FileFacts
from llamafile_mgr.machine import Gpu
from llamafile_mgr.machine.vendors import backend_of
from llamafile_mgr.machine.vulkan import VULKAN
from llamafile_mgr.planner.budget import GpuBudget, is_worthwhile
from llamafile_mgr.planner.memory import Load, Offload, format_size, predict_memory
from llamafile_mgr.planner.plans import Reason

_ALL_LAYERS = 999
_CPU = "disable"
_USUAL_LAYERS = 32


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model computes.

    ``word``: for ``--gpu``. ``layers``: for ``-ngl``, None where the engine fits them itself. ``full``:
    everything lies on GPUs. ``environment``: what shows the engine the chosen GPU alone.
    """

    word: str
    reason: Reason
    layers: int | None = None
    offload: Offload | None = None
    gpus: tuple[Gpu, ...] = ()
    full: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """Return the names of the GPUs, ``cpu`` when there are none."""
        return " + ".join(gpu.name for gpu in self.gpus) or "cpu"

    @property
    def accelerated(self) -> bool:
        """Return whether GPUs that are worth their while hold the whole model."""
        return self.full and all(is_worthwhile(gpu) for gpu in self.gpus)


def place_model(
    facts: FileFacts,
    load: Load,
    budgets: Sequence[GpuBudget],
    modules: tuple[str, ...] | None,
    environ: Mapping[str, str],
    *,
    spare_largest: bool,
    host_now: float,
) -> Placement:
    """Return where this model computes under this load.

    ``modules``: the engine's GPU libraries, None when unknown. ``spare_largest``: another model that needs
    more memory comes later. ``host_now``: bytes of main memory that are left, for unified GPUs.
    """
    if not family_rules(load.family).uses_gpus:
        return _on_cpu(f"the {load.family.value} engine computes on the processor")
    if not budgets:
        return _on_cpu("there is no GPU that an engine can use")
    usable = [
        (replace(each, free=min(each.free, host_now)) if each.gpu.unified else each, word)
        for each in budgets
        if (word := _word_for(each.gpu, load.family, modules))
    ]
    if not usable:
        return _on_cpu("this engine has no support for the GPU that is there")
    placing = _Placing(facts, load, budgets, environ)
    for budget, word in sorted(usable, key=lambda pair: pair[0].free, reverse=not spare_largest):
        if placing.fitting_layers([budget]) == placing.layer_count:
            return placing.on([budget], word)
    return placing.spread(usable)


def take_from(budgets: Sequence[GpuBudget], gpus: Sequence[Gpu], taken: int) -> tuple[GpuBudget, ...]:
    """Return what is left after a model took ``taken`` bytes, in equal parts of the GPUs that it lies on."""
    return tuple(
        replace(each, free=max(0, each.free - taken // len(gpus))) if each.gpu in gpus else each
        for each in budgets
    )


@dataclass(frozen=True, slots=True)
class _Placing:
    """What is placed, and among which GPUs."""

    facts: FileFacts
    load: Load
    budgets: Sequence[GpuBudget]
    environ: Mapping[str, str]

    @property
    def layer_count(self) -> int:
        """Return the layers that can be offloaded: the blocks and the output."""
        model = self.facts.model
        return 1 + ((model.gguf.block_count if model else None) or _USUAL_LAYERS)

    def fitting_layers(self, group: Sequence[GpuBudget]) -> int:
        """Return how many layers fit on these GPUs together."""
        count = self.layer_count
        margin = 0 if group[0].gpu.unified else family_rules(self.load.family).gpu_margin
        free = sum(max(0, budget.free - margin) for budget in group)
        # Every further GPU carries its own driver and compute buffers; count them as dedicated memory.
        further = self._taken(Offload(1, 10**9)) * (len(group) - 1)

        def fits(left_out: int) -> bool:
            return self._taken(Offload(count - left_out, count)) + further <= free

        return count - bisect.bisect_left(range(count), True, key=fits)

    def spread(self, usable: Sequence[tuple[GpuBudget, str]]) -> Placement:
        """Place a model that no single GPU holds: on all GPUs of one kind, in part if need be."""
        groups: dict[str, list[GpuBudget]] = {}
        for budget, word in usable:
            groups.setdefault(word, []).append(budget)
        word, group = max(groups.items(), key=lambda item: sum(budget.free for budget in item[1]))
        model = self.facts.model
        if model is not None and model.gguf.causal is False:
            return _on_cpu("no GPU has room for the whole model, and encoders gain nothing from a part")
        if self.fitting_layers(group):
            return self.on(group, word)
        return _on_cpu("no GPU has room for a single layer")

    def on(self, group: Sequence[GpuBudget], word: str) -> Placement:
        """Place as many layers as fit on these GPUs."""
        layers, count = self.fitting_layers(group), self.layer_count
        full = layers == count
        gpus = tuple(budget.gpu for budget in group)
        free = format_size(sum(budget.free for budget in group))
        why = (
            f"{'the model fits' if full else f'{layers} of {count} layers fit'} into the {free} that are free"
        )
        flag: int | None = _ALL_LAYERS if full else layers
        if family_rules(self.load.family).fits_layers:
            flag = None
            why += "; the engine fits the layers itself"
        if gpus[0].unified:
            why += "; its memory is main memory, counted once"
        return Placement(
            word=word,
            reason=Reason("gpu", " + ".join(gpu.name for gpu in gpus), why),
            layers=flag,
            offload=Offload(layers, count, gpus[0].unified),
            gpus=gpus,
            full=full,
            environment=self._show_only(gpus, word),
        )

    def _taken(self, offload: Offload) -> int:
        return predict_memory(self.facts, self.load, offload=offload).device

    def _show_only(self, gpus: Sequence[Gpu], word: str) -> dict[str, str]:
        """Return variables that show the engine one GPU of several; empty where there is nothing to hide."""
        # The numbers are those of the GPUs' own backend; another one that reaches them counts otherwise.
        backend = backend_of(gpus[0].backend)
        if (
            backend is None
            or backend.word != word
            or backend.hiding is None
            or backend.hiding in self.environ
        ):
            return {}
        others = [each for each in self.budgets if each.gpu.backend == word and each.gpu not in gpus]
        if not others or any(gpu.index is None for gpu in gpus):
            return {}
        return {backend.hiding: ",".join(str(gpu.index) for gpu in gpus), **dict(backend.numbering)}


def _on_cpu(why: str) -> Placement:
    return Placement(_CPU, Reason("gpu", "none", why))


def _word_for(gpu: Gpu, family: Family, modules: tuple[str, ...] | None) -> str | None:
    """Return the word for ``--gpu`` with which this engine can use this GPU, None when it cannot."""
    own, loads = backend_of(gpu.backend), family_rules(family).loads_gpu_modules
    if own is None or not (loads or own.in_old_engines):
        return None
    if not loads or modules is None or own.module is None:
        return own.word
    names = [module.rsplit("/", 1)[-1] for module in modules]
    for backend in (own, VULKAN):
        if any(name.startswith(backend.module or backend.word) for name in names):
            return backend.word
    return None
