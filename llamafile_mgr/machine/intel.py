"""Intel's GPUs: engines reach them through Vulkan; all but the Arc cards share main memory.

They share the processor's memory bandwidth too, and gain little over it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from llamafile_mgr.machine.gpu_vendor import DrmCard, GpuVendor
from llamafile_mgr.machine.vulkan import VULKAN_FIX

#: Where the graphics of Intel's processors sit on the PCI bus.
_BUILT_IN_SLOT = "0000:00:02."


def _shares_memory(name: str) -> bool:
    return "arc" not in name.lower()


def _inspect_cards(cards: Sequence[DrmCard], sys_root: Path, dev_root: Path) -> list[DrmCard]:
    return [
        dataclasses.replace(card, integrated=(card.slot or "").startswith(_BUILT_IN_SLOT)) for card in cards
    ]


INTEL = GpuVendor(
    name="intel",
    fix=f"install {VULKAN_FIX}",
    pci=(0x8086,),
    marks=("intel",),
    integrated=_shares_memory,
    inspect_cards=_inspect_cards,
)
