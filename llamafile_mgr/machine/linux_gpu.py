"""Linux: GPUs from the kernel's display devices, the vendors' tools and Vulkan, each counted once.

``merge`` is pure; the rest reads ``/sys`` and runs tools.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from llamafile_mgr.machine.gpu_vendor import DrmCard
from llamafile_mgr.machine.hardware import OTHER_VENDOR, Gpu
from llamafile_mgr.machine.reading import hex_number, read_pairs, read_text, whole_number
from llamafile_mgr.machine.vendors import find_vendor, inspect_cards, probe_vendors, vendor_of_pci
from llamafile_mgr.machine.vulkan import VULKAN, VulkanDevice, list_vulkan_devices


def find_gpus(sys_root: Path = Path("/sys"), dev_root: Path = Path("/dev")) -> tuple[Gpu, ...]:
    """Return the GPUs of this computer. Tools run only when the kernel shows something that they know."""
    cards = read_drm_cards(sys_root, dev_root)
    listed = probe_vendors()
    known = {gpu.vendor for gpu in listed}
    devices = list_vulkan_devices() if any(card.vendor not in known for card in cards) else ()
    return merge(listed, cards, devices)


def merge(listed: Sequence[Gpu], cards: Iterable[DrmCard], vulkan: Iterable[VulkanDevice]) -> tuple[Gpu, ...]:
    """Return every GPU once: those that vendors list, then the kernel's cards, then what only Vulkan sees."""
    devices = list(vulkan)
    found = list(listed)
    seen = {gpu.vendor for gpu in listed}
    counts: dict[str, int] = {}
    for card in sorted(cards, key=lambda c: (c.slot or "", c.card)):
        if card.vendor in seen:
            continue
        own = (card.vendor, card.device_id)
        twin = next((d for d in devices if (vendor_of_pci(d.vendor_id), d.device_id) == own), None)
        if twin is not None:
            devices.remove(twin)
        gpu = _of_card(card, twin)
        word = gpu.backend
        if gpu.index is None and word is not None:
            gpu, counts[word] = dataclasses.replace(gpu, index=counts.get(word, 0)), counts.get(word, 0) + 1
        found.append(gpu)
    known = {gpu.vendor for gpu in found}
    found.extend(_of_vulkan(device) for device in devices if vendor_of_pci(device.vendor_id) not in known)
    return tuple(found)


def read_drm_cards(sys_root: Path, dev_root: Path) -> tuple[DrmCard, ...]:
    """Return the display devices of makers whose GPUs compute, from ``/sys/class/drm``.

    The rest are consoles of servers and virtual machines.
    """
    try:
        entries = sorted((sys_root / "class/drm").iterdir())
    except OSError:
        return ()
    cards = [
        card
        for entry in entries
        if re.fullmatch(r"card\d+", entry.name)
        and (card := _read_card(entry, dev_root)).vendor != OTHER_VENDOR
    ]
    return inspect_cards(cards, sys_root, dev_root)


def _read_card(entry: Path, dev_root: Path) -> DrmCard:
    device = entry / "device"
    facts = read_pairs(read_text(device / "uevent") or "", "=")
    vendor, _, number = facts.get("PCI_ID", "").partition(":")
    render = _render_node(device)
    return DrmCard(
        card=entry.name,
        vendor=vendor_of_pci(hex_number(vendor) or 0),
        device_id=hex_number(number),
        slot=facts.get("PCI_SLOT_NAME"),
        driver=facts.get("DRIVER"),
        node=render is not None and (dev_root / "dri" / render).exists(),
        render=render,
    )


def _of_card(card: DrmCard, twin: VulkanDevice | None) -> Gpu:
    integrated = card.integrated or (twin is not None and twin.integrated)
    number = f"{card.device_id:04x}" if card.device_id is not None else "unknown"
    total, used = card.vram_total, card.vram_used
    if integrated:
        # The carve-out is small and the rest is mapped from main memory: the share is both together.
        total = None if total is None or card.mapped_total is None else total + card.mapped_total
        used = None if used is None or card.mapped_used is None else used + card.mapped_used
    vendor = find_vendor(card.vendor)
    own = vendor.backend if vendor is not None and card.direct and card.node else None
    through_vulkan = own is None and twin is not None and card.node
    return Gpu(
        vendor=card.vendor,
        name=card.name or (twin.name if twin else None) or f"{card.vendor} GPU {number}",
        index=twin.index if twin is not None and through_vulkan else None,
        memory_total=total,
        memory_free=max(0, total - used) if total is not None and used is not None else None,
        unified=integrated,
        compute_capability=card.target,
        driver=card.driver,
        backend=own.word if own is not None else VULKAN.word if through_vulkan else None,
    )


def _of_vulkan(device: VulkanDevice) -> Gpu:
    return Gpu(
        vendor=vendor_of_pci(device.vendor_id),
        name=device.name,
        index=device.index,
        unified=device.integrated,
        driver=device.driver,
        backend=VULKAN.word,
    )


def _render_node(device: Path) -> str | None:
    found = sorted(device.glob("drm/renderD*"))
    names = (path.name for path in found if whole_number(path.name.removeprefix("renderD")) is not None)
    return next(names, None)
