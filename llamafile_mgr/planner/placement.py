"""On which GPUs a model computes, and with how many layers. Pure.

``--gpu X`` is always explicit: engines fall back to the processor silently otherwise. ``-ngl`` is passed
only where the engine does not fit the layers itself. The memory of unified GPUs is main memory
and is counted there, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.llamafile import FileFacts
from llamafile_mgr.machine import Gpu, Machine
from llamafile_mgr.planner.memory import Load, Offload, format_size, predict_memory
from llamafile_mgr.planner.plans import Reason

__all__ = ["ALL_LAYERS", "GpuRoom", "Placement", "find_rooms", "place_model", "take_room"]

ALL_LAYERS = 999
_CPU = "disable"
#: ``--gpu`` words of the old engines.
_OLD_WORDS = frozenset({"nvidia", "amd", "apple"})
#: ``--gpu`` word -> the library that v10 needs for it; Metal is built in.
_MODULES = {"nvidia": "ggml-cuda", "amd": "ggml-rocm", "vulkan": "ggml-vulkan"}
_HIDING = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES"}
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
    backend = gpu.backend
    if backend is None or not family_rules(family).loads_gpu_modules:
        return backend if backend in _OLD_WORDS else None
    if modules is None or backend not in _MODULES:
        return backend
    names = [module.rsplit("/", 1)[-1] for module in modules]
    for word in (backend, "vulkan"):
        if any(name.startswith(_MODULES[word]) for name in names):
            return word
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
    for layers in range(count, 0, -1):
        # Every further GPU carries its own driver and compute buffers; count them as dedicated memory.
        one = predict_memory(facts, load, offload=Offload(layers, count))
        zero = predict_memory(facts, load, offload=Offload(1, 10**9))
        if one.device + zero.device * (len(group) - 1) <= free:
            return layers
    return 0


def _is_hidden(gpu: Gpu, environ: Mapping[str, str]) -> bool:
    """Tell whether a variable of the user's hides this GPU; names other than numbers hide none."""
    variable = _HIDING.get(gpu.backend or "")
    value = environ.get(variable) if variable else None
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
    variable = _HIDING.get(word)
    others = [room.gpu for room in rooms if room.gpu.backend == gpus[0].backend and room.gpu not in gpus]
    if variable is None or not others or variable in environ or any(gpu.index is None for gpu in gpus):
        return {}
    shown = {variable: ",".join(str(gpu.index) for gpu in gpus)}
    if word == "nvidia":
        # CUDA numbers the fastest first unless it is told to number them as the driver does.
        shown["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return shown
