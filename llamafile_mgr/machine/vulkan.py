"""GPUs that only Vulkan tells of: ``vulkaninfo --summary``, which gives names and kinds, no memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llamafile_mgr.machine.entries import GpuVendor

__all__ = ["VulkanDevice", "parse_vulkan_summary", "vendor_of_pci"]

#: PCI vendor number -> maker.
_VENDORS = {
    0x10DE: GpuVendor.NVIDIA,
    0x1002: GpuVendor.AMD,
    0x1022: GpuVendor.AMD,
    0x106B: GpuVendor.APPLE,
    0x8086: GpuVendor.INTEL,
}
_DEVICE = re.compile(r"^GPU([0-9]{1,4}):\s*$")


@dataclass(frozen=True, slots=True)
class VulkanDevice:
    """One device; ``integrated``: it shares main memory, ``software``: it is the processor in disguise."""

    index: int
    name: str
    vendor: GpuVendor
    device_id: int | None
    integrated: bool
    software: bool
    driver: str | None


def vendor_of_pci(number: int) -> GpuVendor:
    """Return the maker of a PCI vendor number."""
    return _VENDORS.get(number, GpuVendor.OTHER)


def parse_vulkan_summary(text: str) -> tuple[VulkanDevice, ...]:
    """Read the ``Devices`` section of ``vulkaninfo --summary``."""
    blocks: list[tuple[int, dict[str, str]]] = []
    for line in text.splitlines():
        head = _DEVICE.match(line)
        if head:
            blocks.append((int(head[1]), {}))
            continue
        key, equals, value = line.partition("=")
        if equals and blocks:
            blocks[-1][1].setdefault(key.strip(), value.strip())
    return tuple(_device(index, fields) for index, fields in blocks if fields.get("deviceName"))


def _device(index: int, fields: dict[str, str]) -> VulkanDevice:
    kind = fields.get("deviceType", "")
    return VulkanDevice(
        index=index,
        name=fields["deviceName"],
        vendor=vendor_of_pci(_hex(fields.get("vendorID")) or 0),
        device_id=_hex(fields.get("deviceID")),
        integrated=kind.endswith("INTEGRATED_GPU"),
        software=kind.endswith("TYPE_CPU"),
        driver=" ".join(fields[k] for k in ("driverName", "driverInfo") if fields.get(k)) or None,
    )


def _hex(text: str | None) -> int | None:
    try:
        return int(text or "", 16)
    except ValueError:
        return None
