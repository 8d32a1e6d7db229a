"""Linux: GPUs from the kernel's display devices, the vendors' tools and Vulkan, each counted once.

``merge`` is pure; the rest reads ``/sys`` and runs tools.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.machine.amd import (
    INTEGRATED_TARGETS,
    SmiCard,
    gfx_name,
    parse_kfd_properties,
    parse_rocm_smi,
)
from llamafile_mgr.machine.entries import Gpu, GpuVendor
from llamafile_mgr.machine.nvidia import find_nvidia
from llamafile_mgr.machine.reading import read_text, run_tool, whole_number
from llamafile_mgr.machine.vulkan import VulkanDevice, parse_vulkan_summary, vendor_of_pci

__all__ = ["DrmCard", "find_gpus", "merge", "parse_uevent", "read_drm_cards"]

#: Makers whose display devices can compute; the rest are consoles of servers and virtual machines.
_COMPUTING = (GpuVendor.NVIDIA, GpuVendor.AMD, GpuVendor.INTEL)


@dataclass(frozen=True, slots=True)
class DrmCard:
    """One display device of the kernel.

    ``node``: a ``/dev/dri/renderD*`` for it exists here, which containers often lack.
    ``target``: the ``gfx`` name that KFD gives an AMD GPU; ``kfd`` says whether ``/dev/kfd`` exists.
    ``gtt_total``, ``gtt_used``: main memory that an AMD GPU may map, and has mapped.
    """

    card: str
    vendor: GpuVendor
    device_id: int | None
    slot: str | None
    driver: str | None
    node: bool
    product: str | None = None
    target: str | None = None
    kfd: bool = False
    vram_total: int | None = None
    vram_used: int | None = None
    gtt_total: int | None = None
    gtt_used: int | None = None


def find_gpus(sys_root: Path = Path("/sys"), dev_root: Path = Path("/dev")) -> tuple[Gpu, ...]:
    """Return the GPUs of this computer. Tools run only when the kernel shows something that they know."""
    cards = read_drm_cards(sys_root, dev_root)
    nvidia = find_nvidia()
    smi: dict[str, SmiCard] = {}
    if any(card.vendor is GpuVendor.AMD and card.product is None for card in cards):
        tool = shutil.which("rocm-smi") or "/opt/rocm/bin/rocm-smi"
        text = run_tool([tool, "--showproductname", "--showmeminfo", "vram", "--json"], timeout_seconds=5.0)
        smi = parse_rocm_smi(text or "")
    vulkan: tuple[VulkanDevice, ...] = ()
    if any(card.vendor is not GpuVendor.NVIDIA for card in cards) or (cards and not nvidia):
        vulkan = parse_vulkan_summary(run_tool(["vulkaninfo", "--summary"], timeout_seconds=5.0) or "")
    return merge(nvidia, cards, smi, vulkan)


def merge(
    nvidia: Sequence[Gpu],
    cards: Iterable[DrmCard],
    smi: dict[str, SmiCard],
    vulkan: Iterable[VulkanDevice],
) -> tuple[Gpu, ...]:
    """Return every GPU once: NVIDIA's own list first, then the kernel's cards, then what only Vulkan sees."""
    devices = [device for device in vulkan if not device.software]
    found = list(nvidia)
    seen = {GpuVendor.NVIDIA} if nvidia else set()
    amd_index = 0
    for card in sorted(cards, key=lambda c: (c.slot or "", c.card)):
        if card.vendor in seen:
            continue
        twin = next((d for d in devices if d.vendor is card.vendor and d.device_id == card.device_id), None)
        if twin is not None:
            devices.remove(twin)
        gpu = _of_card(card, smi.get(card.card), twin)
        if gpu.backend == "amd":
            gpu, amd_index = dataclasses.replace(gpu, index=amd_index), amd_index + 1
        found.append(gpu)
    known = {gpu.vendor for gpu in found}
    found.extend(_of_vulkan(device) for device in devices if device.vendor not in known)
    return tuple(found)


def parse_uevent(text: str) -> dict[str, str]:
    """Return the ``KEY=value`` lines of a sysfs ``uevent`` file."""
    return {
        key: value for key, equals, value in (line.partition("=") for line in text.splitlines()) if equals
    }


def read_drm_cards(sys_root: Path, dev_root: Path) -> tuple[DrmCard, ...]:
    """Return the display devices of makers whose GPUs compute, from ``/sys/class/drm``."""
    targets = _kfd_targets(sys_root)
    kfd = (dev_root / "kfd").exists()
    found = []
    try:
        entries = sorted((sys_root / "class/drm").iterdir())
    except OSError:
        return ()
    for entry in entries:
        if not re.fullmatch(r"card\d+", entry.name):
            continue
        device = entry / "device"
        facts = parse_uevent(read_text(device / "uevent") or "")
        vendor, _, number = facts.get("PCI_ID", "").partition(":")
        maker = vendor_of_pci(_hex(vendor) or 0)
        if maker not in _COMPUTING:
            continue
        minor = _render_minor(device)
        found.append(
            DrmCard(
                card=entry.name,
                vendor=maker,
                device_id=_hex(number),
                slot=facts.get("PCI_SLOT_NAME"),
                driver=facts.get("DRIVER"),
                node=minor is not None and (dev_root / f"dri/renderD{minor}").exists(),
                product=(read_text(device / "product_name") or "").strip() or None,
                target=None if minor is None else targets.get(minor),
                kfd=kfd,
                vram_total=_number(device / "mem_info_vram_total"),
                vram_used=_number(device / "mem_info_vram_used"),
                gtt_total=_number(device / "mem_info_gtt_total"),
                gtt_used=_number(device / "mem_info_gtt_used"),
            )
        )
    return tuple(found)


def _of_card(card: DrmCard, smi: SmiCard | None, twin: VulkanDevice | None) -> Gpu:
    target = card.target or (smi.target if smi else None)
    integrated = (
        target in INTEGRATED_TARGETS
        or (twin is not None and twin.integrated)
        or (card.vendor is GpuVendor.INTEL and (card.slot or "").startswith("0000:00:02."))
    )
    number = f"{card.device_id:04x}" if card.device_id is not None else "unknown"
    name = card.product or (smi.name if smi else None) or (twin.name if twin else None)
    total = card.vram_total if card.vram_total is not None else (smi.memory_total if smi else None)
    used = card.vram_used if card.vram_used is not None else (smi.memory_used if smi else None)
    if integrated:
        # The carve-out is small and the rest is mapped from main memory: the share is both together.
        total = None if total is None or card.gtt_total is None else total + card.gtt_total
        used = None if used is None or card.gtt_used is None else used + card.gtt_used
    backend = "vulkan" if twin is not None and card.node else None
    if card.vendor is GpuVendor.AMD and target and card.kfd and card.node:
        backend = "amd"
    return Gpu(
        vendor=card.vendor,
        name=name or f"{card.vendor.value} GPU {number}",
        index=twin.index if twin is not None and backend == "vulkan" else None,
        memory_total=total,
        memory_free=max(0, total - used) if total is not None and used is not None else None,
        unified=integrated,
        compute_capability=target,
        driver=card.driver,
        backend=backend,
    )


def _of_vulkan(device: VulkanDevice) -> Gpu:
    return Gpu(
        vendor=device.vendor,
        name=device.name,
        index=device.index,
        unified=device.integrated,
        driver=device.driver,
        backend="vulkan",
    )


def _kfd_targets(sys_root: Path) -> dict[int, str]:
    """Return render minor -> ``gfx`` name over the nodes of KFD's topology."""
    found = {}
    for path in sorted((sys_root / "class/kfd/kfd/topology/nodes").glob("*/properties")):
        properties = parse_kfd_properties(read_text(path) or "")
        target = gfx_name(properties.get("gfx_target_version", 0))
        if target and properties.get("drm_render_minor"):
            found[properties["drm_render_minor"]] = target
    return found


def _render_minor(device: Path) -> int | None:
    for entry in sorted(device.glob("drm/renderD*")):
        minor = whole_number(entry.name.removeprefix("renderD"))
        if minor is not None:
            return minor
    return None


def _number(path: Path) -> int | None:
    return whole_number(read_text(path))


def _hex(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None
