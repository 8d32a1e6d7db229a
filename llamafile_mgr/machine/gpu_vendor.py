"""What a maker of GPUs is to this program: one object with its facts, its probe and its advice.

A vendor is one file that makes a ``GpuVendor``, and one line in the table of ``vendors.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.machine.hardware import Gpu


@dataclass(frozen=True, slots=True)
class DrmCard:
    """One display device of the Linux kernel.

    ``render``: the name of its file in ``/dev/dri``; ``node``: that file exists here, which containers often
    lack. ``target``: the name of its instruction set. ``vram_*``: its own memory; ``mapped_*``: main memory
    that it may map, and has mapped. ``integrated``: known to share main memory. ``direct``: its vendor's own
    backend can use it.
    """

    card: str
    vendor: str
    device_id: int | None
    slot: str | None
    driver: str | None
    node: bool
    render: str | None = None
    name: str | None = None
    target: str | None = None
    vram_total: int | None = None
    vram_used: int | None = None
    mapped_total: int | None = None
    mapped_used: int | None = None
    integrated: bool = False
    direct: bool = False


@dataclass(frozen=True, slots=True)
class GpuBackend:
    """One way of engines to compute on GPUs.

    ``word``: for ``--gpu``. ``module``: how the file of the library begins that engines load for it, None
    when it is built in. ``in_old_engines``: v1 and v2 know the word. ``hiding``: the variable with the
    numbers of the GPUs that engines may see; ``also_hiding``: others that hide some. ``variables``: those
    that else change what an engine makes of its GPUs. ``numbering``: what makes the numbers in ``hiding``
    those of ``Gpu.index``.
    """

    word: str
    module: str | None = None
    in_old_engines: bool = False
    hiding: str | None = None
    also_hiding: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    numbering: tuple[tuple[str, str], ...] = ()


#: The advice on a GPU that nothing helps.
NO_SUPPORT = "no engine has support for it"


@dataclass(frozen=True, slots=True)
class GpuVendor:
    """One maker of GPUs.

    ``name``: in snapshots. ``pci``: its PCI vendor numbers. ``marks``: lower-case words in what a system
    calls its GPUs. ``fix``: what makes a GPU of its usable. ``container``: what gives it to a container.
    ``backend``: its own way to compute, None when engines reach it through Vulkan alone. ``integrated``:
    tells by a GPU's name whether it has no memory of its own. ``quick_unified``: such a one is worth its
    while beside the processor. ``probe``: lists its GPUs by the vendor's own tools. ``inspect_cards``: adds
    to the kernel's cards, given ``/sys`` and ``/dev``, what only this vendor's files and tools tell.
    ``process_memory``: the GPU memory of these processes, None where nothing tells.
    ``devices``: patterns of its GPUs in ``/dev``; ``helpers``: of what engines open beside them; ``late``:
    names that the driver makes at the first use.
    """

    name: str
    fix: str = NO_SUPPORT
    pci: tuple[int, ...] = ()
    marks: tuple[str, ...] = ()
    container: str = "--device /dev/dri"
    backend: GpuBackend | None = None
    integrated: Callable[[str], bool] = lambda name: False
    quick_unified: bool = False
    probe: Callable[[], tuple[Gpu, ...]] = tuple
    inspect_cards: Callable[[Sequence[DrmCard], Path, Path], Sequence[DrmCard]] | None = None
    process_memory: Callable[[Collection[int]], int | None] = lambda pids: None
    devices: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
