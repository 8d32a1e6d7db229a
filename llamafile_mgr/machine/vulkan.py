"""GPUs of any maker through Vulkan: ``vulkaninfo --summary``, which gives names and kinds, no memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llamafile_mgr.machine.gpu_vendor import GpuBackend
from llamafile_mgr.machine.reading import hex_number, run_tool

VULKAN = GpuBackend("vulkan", module="ggml-vulkan", hiding="GGML_VK_VISIBLE_DEVICES")
#: What gives engines a GPU through Vulkan.
VULKAN_FIX = "its Vulkan driver with vulkaninfo (mesa-vulkan-drivers, vulkan-tools)"
_DEVICE = re.compile(r"^GPU([0-9]{1,4}):\s*$")


@dataclass(frozen=True, slots=True)
class VulkanDevice:
    """One device; ``vendor_id``: the PCI vendor number, 0 when nothing tells. ``integrated``: it shares main
    memory, ``software``: it is the processor in disguise.
    """

    index: int
    name: str
    vendor_id: int
    device_id: int | None
    integrated: bool
    software: bool
    driver: str | None


def list_vulkan_devices() -> tuple[VulkanDevice, ...]:
    """Return the GPUs that ``vulkaninfo`` lists, none when it is missing or late."""
    devices = parse_vulkan_summary(run_tool(["vulkaninfo", "--summary"], timeout_seconds=5.0) or "")
    return tuple(device for device in devices if not device.software)


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
        vendor_id=hex_number(fields.get("vendorID")) or 0,
        device_id=hex_number(fields.get("deviceID")),
        integrated=kind.endswith("INTEGRATED_GPU"),
        software=kind.endswith("TYPE_CPU"),
        driver=" ".join(fields[k] for k in ("driverName", "driverInfo") if fields.get(k)) or None,
    )
