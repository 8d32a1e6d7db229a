"""AMD GPUs: the kernel's compute topology (KFD), the driver's memory files, and ``rocm-smi`` for names.

The parsers and ``with_smi`` are pure.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamafile_mgr.machine.gpu_vendor import DrmCard, GpuBackend, GpuVendor
from llamafile_mgr.machine.reading import read_text, run_tool, whole_number
from llamafile_mgr.machine.vulkan import VULKAN_FIX

#: Compute targets that AMD builds into processors: their memory is main memory. (Raven, Renoir, Van Gogh,
#: Rembrandt, Raphael, Mendocino, Phoenix, Strix, Strix Halo, Krackan.)
_INTEGRATED = re.compile(r"gfx(?:902|909|90c|1013|103[3567]|1103|115[0-3])")


#: What ``rocm-smi`` tells of one card: fields of ``DrmCard``.
SmiFields = dict[str, Any]


def parse_kfd_properties(text: str) -> dict[str, int]:
    """Return the numbers of ``/sys/class/kfd/kfd/topology/nodes/N/properties``."""
    pairs = (line.split() for line in text.splitlines())
    numbers = {pair[0]: whole_number(pair[1]) for pair in pairs if len(pair) == 2}
    return {name: number for name, number in numbers.items() if number is not None}


def gfx_name(version: int) -> str | None:
    """Return ``gfx1100`` for a ``gfx_target_version`` of 110000; ``None`` for 0, which processors have.

    The number holds major, minor and stepping as decimal pairs; the name writes the last two in hexadecimal.
    """
    if version <= 0:
        return None
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def parse_rocm_smi(text: str) -> dict[str, SmiFields]:
    """Read ``rocm-smi --showproductname --showmeminfo vram --json``: card name -> what it says.

    Key names changed case between releases (``Card series``, ``Card Series``). A warning line before the
    object is skipped.
    """
    start = text.find("{")
    try:
        data = json.loads(text[start:]) if start >= 0 else {}
    except ValueError:
        return {}
    if not isinstance(data, dict):
        return {}
    cards = {}
    for card, fields in data.items():
        if not card.startswith("card") or not isinstance(fields, dict):
            continue
        low = {str(key).lower(): str(value) for key, value in fields.items()}
        cards[card] = {
            "name": _named(low, "card series", "device name", "card model"),
            "target": _named(low, "gfx version"),
            "vram_total": whole_number(low.get("vram total memory (b)")),
            "vram_used": whole_number(low.get("vram total used memory (b)")),
        }
    return cards


def _named(fields: dict[str, str], *keys: str) -> str | None:
    """Return the first of these fields that says something; ``0x744c`` and ``N/A`` say nothing."""
    for key in keys:
        value = fields.get(key, "").strip()
        if value and value != "N/A" and not value.startswith("0x"):
            return value
    return None


def with_smi(card: DrmCard, smi: SmiFields) -> DrmCard:
    """Return the card with what ``rocm-smi`` adds to the kernel's files, and what its target tells."""
    card = replace(card, **{name: value for name, value in smi.items() if getattr(card, name) is None})
    integrated = _INTEGRATED.fullmatch(card.target or "") is not None
    return replace(card, integrated=integrated, direct=card.direct and card.target is not None)


def _inspect_cards(cards: Sequence[DrmCard], sys_root: Path, dev_root: Path) -> list[DrmCard]:
    targets = _kfd_targets(sys_root)
    compute = (dev_root / "kfd").exists()
    found = []
    for card in cards:
        device = sys_root / "class/drm" / card.card / "device"
        found.append(
            replace(
                card,
                name=(read_text(device / "product_name") or "").strip() or None,
                target=targets.get(card.render or ""),
                vram_total=whole_number(read_text(device / "mem_info_vram_total")),
                vram_used=whole_number(read_text(device / "mem_info_vram_used")),
                mapped_total=whole_number(read_text(device / "mem_info_gtt_total")),
                mapped_used=whole_number(read_text(device / "mem_info_gtt_used")),
                direct=compute and card.node,
            )
        )
    smi: dict[str, SmiFields] = {}
    if any(card.name is None for card in found):
        tool = shutil.which("rocm-smi") or "/opt/rocm/bin/rocm-smi"
        text = run_tool([tool, "--showproductname", "--showmeminfo", "vram", "--json"], timeout_seconds=5.0)
        smi = parse_rocm_smi(text or "")
    return [with_smi(card, smi.get(card.card, {})) for card in found]


def _kfd_targets(sys_root: Path) -> dict[str, str]:
    """Return render node -> ``gfx`` name over the nodes of KFD's topology."""
    found = {}
    for path in sorted((sys_root / "class/kfd/kfd/topology/nodes").glob("*/properties")):
        properties = parse_kfd_properties(read_text(path) or "")
        target = gfx_name(properties.get("gfx_target_version", 0))
        if target and properties.get("drm_render_minor"):
            found[f"renderD{properties['drm_render_minor']}"] = target
    return found


AMD = GpuVendor(
    name="amd",
    fix=f"install ROCm for it, or {VULKAN_FIX}",
    pci=(0x1002, 0x1022),
    marks=("amd", "radeon"),
    container="--device /dev/dri --device /dev/kfd",
    backend=GpuBackend(
        word="amd",
        module="ggml-rocm",
        in_old_engines=True,
        hiding="HIP_VISIBLE_DEVICES",
        also_hiding=("ROCR_VISIBLE_DEVICES",),
        variables=("HSA_OVERRIDE_GFX_VERSION",),
    ),
    inspect_cards=_inspect_cards,
    devices=("kfd",),
)
