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
from llamafile_mgr.machine import Gpu, Machine
from llamafile_mgr.machine.vendors import backend_of, find_vendor
from llamafile_mgr.machine.vulkan import VULKAN
from llamafile_mgr.planner.memory import Load, Offload, format_size, predict_memory
from llamafile_mgr.planner.plans import Reason

__all__ = ["ALL_LAYERS", "GpuRoom", "Placement", "find_rooms", "is_worthwhile", "place_model", "take_room"]

ALL_LAYERS = 999
_CPU = "disable"
_USUAL_LAYERS = 32


@dataclass(frozen=True, slots=True)
class GpuRoom:
    """One GPU and the bytes that are left on it; the share of main memory for a unified one."""

    gpu: Gpu
    free: int


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


def is_worthwhile(gpu: Gpu) -> bool:
    """Tell whether a GPU is much faster than the processor beside it."""
    vendor = find_vendor(gpu.vendor)
    return not gpu.unified or (vendor is not None and vendor.quick_unified)


def find_rooms(machine: Machine, environ: Mapping[str, str]) -> tuple[GpuRoom, ...]:
    """Return the GPUs that an engine could use and that the environment does not hide."""
    rooms = []
    for gpu in machine.gpus:
        free = machine.memory_of(gpu)
        if gpu.backend is not None and free is not None and not _is_hidden(gpu, environ):
            rooms.append(GpuRoom(gpu, free))
    return tuple(rooms)


def place_model(
    facts: FileFacts,
    load: Load,
    rooms: Sequence[GpuRoom],
    modules: tuple[str, ...] | None,
    environ: Mapping[str, str],
    *,
    spare_largest: bool = False,
    host_room: int | None = None,
) -> Placement:
    """Return where this model computes under this load.

    ``modules``: the engine's GPU libraries, None when unknown. ``spare_largest``: another model that needs
    more room comes later. ``host_room``: bytes of main memory that are left, for unified GPUs.
    """
    if not family_rules(load.family).uses_gpus:
        return _on_cpu(f"the {load.family.value} engine computes on the processor")
    if not rooms:
        return _on_cpu("there is no GPU that an engine can use")
    usable = [(room, word) for room in rooms if (word := _word_for(room.gpu, load.family, modules))]
    if not usable:
        return _on_cpu("this engine has no support for the GPU that is there")
    if host_room is not None:
        usable = [(_within_host(room, host_room), word) for room, word in usable]
    by_room = sorted(usable, key=lambda pair: pair[0].free, reverse=not spare_largest)
    for room, word in by_room:
        if _fitting_layers(facts, load, [room]) == _layer_count(facts):
            return _placed(facts, load, [room], word, rooms, environ)
    return _spread(facts, load, usable, rooms, environ)


def _spread(
    facts: FileFacts,
    load: Load,
    usable: Sequence[tuple[GpuRoom, str]],
    rooms: Sequence[GpuRoom],
    environ: Mapping[str, str],
) -> Placement:
    """Place a model that no single GPU holds: on all GPUs of one kind, in part if need be."""
    groups: dict[str, list[GpuRoom]] = {}
    for room, word in usable:
        groups.setdefault(word, []).append(room)
    word, group = max(groups.items(), key=lambda item: sum(room.free for room in item[1]))
    model = facts.model
    if model is not None and model.gguf.causal is False:
        return _on_cpu("no GPU has room for the whole model, and encoders gain nothing from a part")
    if _fitting_layers(facts, load, group):
        return _placed(facts, load, group, word, rooms, environ)
    return _on_cpu("no GPU has room for a single layer")


def _placed(
    facts: FileFacts,
    load: Load,
    group: Sequence[GpuRoom],
    word: str,
    rooms: Sequence[GpuRoom],
    environ: Mapping[str, str],
) -> Placement:
    count = _layer_count(facts)
    layers = _fitting_layers(facts, load, group)
    full = layers == count
    gpus = tuple(room.gpu for room in group)
    name = " + ".join(gpu.name for gpu in gpus)
    room_text = format_size(sum(room.free for room in group))
    if full:
        why = f"the model fits into the {room_text} that are free"
    else:
        why = f"{layers} of {count} layers fit into the {room_text} that are free"
    if family_rules(load.family).fits_layers:
        flag = None
        why += "; the engine fits the layers itself"
    else:
        flag = ALL_LAYERS if full else layers
    if gpus[0].unified:
        why += "; its memory is main memory, counted once"
    return Placement(
        word=word,
        reason=Reason("gpu", name, why),
        layers=flag,
        offload=Offload(layers, count, gpus[0].unified),
        gpus=gpus,
        full=full,
        environment=_show_only(gpus, word, rooms, environ),
    )


def take_room(rooms: Sequence[GpuRoom], placement: Placement, taken: int) -> tuple[GpuRoom, ...]:
    """Return the rooms after a model took ``taken`` bytes, in equal parts of the GPUs that it lies on."""
    if not placement.gpus:
        return tuple(rooms)
    part = taken // len(placement.gpus)
    return tuple(
        replace(room, free=max(0, room.free - part)) if room.gpu in placement.gpus else room for room in rooms
    )


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


def _within_host(room: GpuRoom, host_room: int) -> GpuRoom:
    return replace(room, free=min(room.free, max(0, host_room))) if room.gpu.unified else room


def _layer_count(facts: FileFacts) -> int:
    """Return the layers that can be offloaded: the blocks and the output."""
    model = facts.model
    return 1 + ((model.gguf.block_count if model else None) or _USUAL_LAYERS)


def _fitting_layers(facts: FileFacts, load: Load, group: Sequence[GpuRoom]) -> int:
    """Return how many layers fit on these GPUs together."""
    count = _layer_count(facts)
    unified = group[0].gpu.unified
    margin = 0 if unified else family_rules(load.family).gpu_margin
    free = sum(max(0, room.free - margin) for room in group)
    # Every further GPU carries its own driver and compute buffers; count them as dedicated memory.
    further = predict_memory(facts, load, offload=Offload(1, 10**9)).device * (len(group) - 1)

    def fits(left_out: int) -> bool:
        taken = predict_memory(facts, load, offload=Offload(count - left_out, count)).device
        return taken + further <= free

    return count - bisect.bisect_left(range(count), True, key=fits)


def _is_hidden(gpu: Gpu, environ: Mapping[str, str]) -> bool:
    """Tell whether a variable of the user's hides this GPU; names other than numbers hide none."""
    backend = backend_of(gpu.backend)
    value = environ.get(backend.hiding) if backend is not None and backend.hiding else None
    if value is None or gpu.index is None:
        return False
    words = [word.strip() for word in value.split(",")]
    if words in ([""], ["-1"]):
        return True
    return all(word.isdigit() for word in words) and str(gpu.index) not in words


def _show_only(
    gpus: Sequence[Gpu], word: str, rooms: Sequence[GpuRoom], environ: Mapping[str, str]
) -> dict[str, str]:
    """Return variables that show the engine one GPU of several; empty where there is nothing to hide."""
    # The numbers are those of the GPUs' own backend; another one that reaches them counts otherwise.
    backend = backend_of(gpus[0].backend)
    if backend is None or backend.word != word or backend.hiding is None or backend.hiding in environ:
        return {}
    others = [room.gpu for room in rooms if room.gpu.backend == word and room.gpu not in gpus]
    if not others or any(gpu.index is None for gpu in gpus):
        return {}
    return {backend.hiding: ",".join(str(gpu.index) for gpu in gpus), **dict(backend.numbering)}
