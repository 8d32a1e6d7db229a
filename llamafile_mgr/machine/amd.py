"""AMD GPUs: the kernel's compute topology (KFD), the driver's memory files, and ``rocm-smi`` for names.

Parsers over text; ``linux_gpu.py`` reads the files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from llamafile_mgr.machine.reading import whole_number

__all__ = ["INTEGRATED_TARGETS", "SmiCard", "gfx_name", "parse_kfd_properties", "parse_rocm_smi"]

#: Compute targets that AMD builds into processors: their memory is main memory. (Raven, Renoir, Van Gogh,
#: Rembrandt, Raphael, Mendocino, Phoenix, Strix, Strix Halo, Krackan.)
INTEGRATED_TARGETS = frozenset(
    f"gfx{n}"
    for n in (
        "902",
        "909",
        "90c",
        "1013",
        "1033",
        "1035",
        "1036",
        "1037",
        "1103",
        "1150",
        "1151",
        "1152",
        "1153",
    )
)


@dataclass(frozen=True, slots=True)
class SmiCard:
    """One card of ``rocm-smi``; sizes in bytes."""

    name: str | None
    target: str | None
    memory_total: int | None
    memory_used: int | None


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


def parse_rocm_smi(text: str) -> dict[str, SmiCard]:
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
        cards[card] = SmiCard(
            name=_named(low, "card series", "device name", "card model"),
            target=_named(low, "gfx version"),
            memory_total=whole_number(low.get("vram total memory (b)")),
            memory_used=whole_number(low.get("vram total used memory (b)")),
        )
    return cards


def _named(fields: dict[str, str], *keys: str) -> str | None:
    """Return the first of these fields that says something; ``0x744c`` and ``N/A`` say nothing."""
    for key in keys:
        value = fields.get(key, "").strip()
        if value and value != "N/A" and not value.startswith("0x"):
            return value
    return None
