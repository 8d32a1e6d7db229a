"""Windows: the kernel's own calls for processor and memory, PowerShell for displays.

The parsers were tested on texts and bytes composed after Microsoft's documentation; ``detect_windows``
was never run on Windows by its author.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import struct
import sys

from llamafile_mgr.machine import library
from llamafile_mgr.machine.hardware import Cpu, Gpu, Machine, System
from llamafile_mgr.machine.reading import run_tool
from llamafile_mgr.machine.vendors import find_vendor, probe_vendors, vendor_of_pci
from llamafile_mgr.machine.vulkan import VULKAN, list_vulkan_devices

#: Numbers of IsProcessorFeaturePresent -> our names.
_FEATURES = {
    36: "ssse3",
    37: "sse4_1",
    38: "sse4_2",
    39: "avx",
    40: "avx2",
    41: "avx512f",
    19: "neon",
    43: "dotprod",
}
_RELATION_PROCESSOR_CORE = 0
_VIDEO_QUERY = (
    "Get-CimInstance Win32_VideoController | "
    "Select-Object Name,AdapterRAM,DriverVersion,PNPDeviceID | ConvertTo-Json -Compress"
)
#: AdapterRAM is a 32-bit field: what is larger is cut to this or just below.
_RAM_FIELD_FULL = 0xFFF00000


def count_cores(buffer: bytes) -> tuple[int, int, int] | None:
    """Return (performance cores, efficiency cores, logical CPUs) from the records of
    ``GetLogicalProcessorInformationEx(RelationProcessorCore)``; ``None`` when they make no sense.

    A record is: relationship, size (32 bits each), flags, efficiency class (8 bits each), 20 bytes of
    nothing, number of groups (16 bits), and per group a 64-bit mask with 8 bytes behind it. The highest
    class is the fastest.
    """
    classes: list[int] = []
    logical = 0
    offset = 0
    while offset + 32 <= len(buffer):
        relation, size = struct.unpack_from("<II", buffer, offset)
        if size < 32 or offset + size > len(buffer):
            return None
        if relation == _RELATION_PROCESSOR_CORE:
            _, efficiency, groups = struct.unpack_from("<BB20xH", buffer, offset + 8)
            if size < 32 + 16 * groups:
                return None
            classes.append(efficiency)
            for group in range(groups):
                (mask,) = struct.unpack_from("<Q", buffer, offset + 32 + 16 * group)
                logical += mask.bit_count()
        offset += size
    if not classes:
        return None
    fastest = sum(1 for c in classes if c == max(classes))
    return fastest, len(classes) - fastest, logical


def parse_video_controllers(text: str) -> tuple[Gpu, ...]:
    """Read the JSON of ``Win32_VideoController``: one object or a list of them.

    ``AdapterRAM`` cannot say 4 GB or more; then the memory is unknown. Virtual adapters (remote desktop,
    Hyper-V) have no PCI maker and are left out.
    """
    try:
        data = json.loads(text)
    except ValueError:
        return ()
    found = []
    for entry in data if isinstance(data, list) else [data]:
        if not isinstance(entry, dict) or not isinstance(entry.get("Name"), str):
            continue
        match = re.search(r"VEN_([0-9A-Fa-f]{4})", str(entry.get("PNPDeviceID") or ""))
        vendor = find_vendor(vendor_of_pci(int(match[1], 16))) if match else None
        if vendor is None:
            continue
        memory = entry.get("AdapterRAM")
        known = isinstance(memory, int) and 0 < memory < _RAM_FIELD_FULL
        driver = entry.get("DriverVersion")
        found.append(
            Gpu(
                vendor=vendor.name,
                name=entry["Name"],
                memory_total=memory if known else None,
                unified=vendor.integrated(entry["Name"]),
                driver=driver if isinstance(driver, str) else None,
            )
        )
    return tuple(found)


def detect_windows(architecture: str | None) -> Machine:
    """Return what Windows tells of this computer."""
    return Machine(
        system=System.WINDOWS,
        system_version=f"Windows {platform.release()}".strip(),
        kernel=platform.version() or None,
        architecture=architecture,
        cpu=_cpu(),
        memory=library.memory(),
        gpus=_gpus(),
    )


def _gpus() -> tuple[Gpu, ...]:
    listed = probe_vendors()
    known = {gpu.vendor for gpu in listed}
    shell = run_tool(["powershell", "-NoProfile", "-NonInteractive", "-Command", _VIDEO_QUERY], 8.0)
    others = [gpu for gpu in parse_video_controllers(shell or "") if gpu.vendor not in known]
    names = {device.name for device in list_vulkan_devices()} if others else set()
    usable = (dataclasses.replace(g, backend=VULKAN.word) if g.name in names else g for g in others)
    return (*listed, *usable)


def _cpu() -> Cpu:
    physical, small, logical = count_cores(_core_records()) or (None, None, None)
    return Cpu(
        model=_processor_name(),
        physical_cores=physical,
        logical_cpus=logical or os.cpu_count(),
        efficiency_cores=small,
        features=_processor_features(),
        cpuset=library.affinity(),
    )


def _processor_name() -> str | None:
    if sys.platform == "win32":
        import winreg

        path = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
                return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip() or None
        except OSError:
            pass
    return platform.processor() or None


def _processor_features() -> tuple[str, ...] | None:
    if sys.platform == "win32":
        import ctypes

        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        found = {name for number, name in _FEATURES.items() if present(number)}
        if "avx2" in found:
            # Windows has no number for these two; every processor with AVX2 that Windows runs on has them.
            found |= {"f16c", "fma"}
        return tuple(sorted(found))
    else:
        return None


def _core_records() -> bytes:
    if sys.platform == "win32":
        import ctypes

        call = ctypes.windll.kernel32.GetLogicalProcessorInformationEx
        size = ctypes.c_ulong(0)
        call(_RELATION_PROCESSOR_CORE, None, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        if size.value and call(_RELATION_PROCESSOR_CORE, buffer, ctypes.byref(size)):
            return buffer.raw[: size.value]
    return b""
