"""The one table of GPU vendors, and what is asked of all of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from llamafile_mgr.machine.amd import AMD
from llamafile_mgr.machine.apple import APPLE
from llamafile_mgr.machine.gpu_vendor import DrmCard, GpuBackend, GpuVendor
from llamafile_mgr.machine.hardware import OTHER_VENDOR, Gpu
from llamafile_mgr.machine.intel import INTEL
from llamafile_mgr.machine.nvidia import NVIDIA
from llamafile_mgr.machine.vulkan import VULKAN

VENDORS: tuple[GpuVendor, ...] = (NVIDIA, AMD, APPLE, INTEL)
#: The kernel's own files of GPUs that can compute, whoever made them.
_RENDER_NODES = "dri/renderD*"


def vendor_names() -> tuple[str, ...]:
    """Return the names that a snapshot may give."""
    return (*(vendor.name for vendor in VENDORS), OTHER_VENDOR)


def find_vendor(name: str) -> GpuVendor | None:
    """Return the vendor of this name, None for others."""
    return next((vendor for vendor in VENDORS if vendor.name == name), None)


def vendor_of_pci(number: int) -> str:
    """Return the name of the maker with this PCI vendor number."""
    return next((vendor.name for vendor in VENDORS if number in vendor.pci), OTHER_VENDOR)


def vendor_of_text(text: str) -> GpuVendor | None:
    """Return the vendor that a lower-case description of a GPU tells of."""
    return next((vendor for vendor in VENDORS if any(mark in text for mark in vendor.marks)), None)


def probe_vendors() -> tuple[Gpu, ...]:
    """Return the GPUs that the vendors' own tools list."""
    return tuple(gpu for vendor in VENDORS for gpu in vendor.probe())


def inspect_cards(cards: Sequence[DrmCard], sys_root: Path, dev_root: Path) -> tuple[DrmCard, ...]:
    """Return the kernel's cards with what each vendor knows of its own."""
    found: list[DrmCard] = []
    for vendor in VENDORS:
        own = [card for card in cards if card.vendor == vendor.name]
        found += vendor.inspect_cards(own, sys_root, dev_root) if own and vendor.inspect_cards else own
    return tuple(found)


def backend_of(word: str | None) -> GpuBackend | None:
    """Return the backend with this word for ``--gpu``."""
    return next((backend for backend in _backends() if backend.word == word), None)


def hiding_variables() -> tuple[str, ...]:
    """Return the variables that hide GPUs from engines."""
    return tuple(
        name for backend in _backends() for name in (backend.hiding, *backend.also_hiding) if name is not None
    )


def hide_every_gpu() -> dict[str, str]:
    """Return the environment in which engines see no GPU."""
    return {backend.hiding: "" for backend in _backends() if backend.hiding is not None}


def gpu_variables() -> tuple[str, ...]:
    """Return every variable that decides which GPUs engines see and what they make of them."""
    return (*hiding_variables(), *(name for backend in _backends() for name in backend.variables))


def gpu_memory_of(pids: Collection[int]) -> int | None:
    """Return the bytes of GPU memory that these processes hold, None where no driver tells. Blocks."""
    told = [size for vendor in VENDORS if (size := vendor.process_memory(pids)) is not None]
    return sum(told) if told else None


def gpu_files(dev_root: Path) -> tuple[Path, ...]:
    """Return the device files of the GPUs of this computer, without those that open them all."""
    patterns = (*(pattern for vendor in VENDORS for pattern in vendor.devices), _RENDER_NODES)
    return tuple(path for pattern in patterns for path in sorted(dev_root.glob(pattern)))


def engine_files(dev_root: Path) -> tuple[Path, ...]:
    """Return every device file that engines open to compute, also those that the drivers make later."""
    found = list(gpu_files(dev_root))
    for vendor in VENDORS:
        helpers = (path for pattern in vendor.helpers for path in sorted(dev_root.glob(pattern)))
        found += [path for path in helpers if not path.is_dir()]
        if any(path for pattern in vendor.devices for path in dev_root.glob(pattern)):
            found += [dev_root / name for name in vendor.late]
    return tuple(dict.fromkeys(found))


def _backends() -> tuple[GpuBackend, ...]:
    own = (vendor.backend for vendor in VENDORS)
    return (*(backend for backend in own if backend is not None), VULKAN)
