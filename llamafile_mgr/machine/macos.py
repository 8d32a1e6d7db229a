"""macOS: ``sysctl``, ``vm_stat`` and ``system_profiler``.

The parsers were tested on captured texts only; ``detect_macos`` was never run on a Mac by its author.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping

from llamafile_mgr.machine.features import select_features
from llamafile_mgr.machine.hardware import OTHER_VENDOR, Cpu, Gpu, Machine, Memory, System
from llamafile_mgr.machine.reading import read_pairs, run_tool, whole_number
from llamafile_mgr.machine.vendors import vendor_of_text

_SYSCTL = "/usr/sbin/sysctl"
#: sysctl flag -> our name of the instruction set, on Apple silicon.
_ARM_FLAGS = {
    "hw.optional.neon": "neon",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_SME": "sme",
}


def detect_macos(architecture: str | None) -> Machine:
    """Return what the system's tools tell of this Mac."""
    names = ("hw", "machdep.cpu", "sysctl.proc_translated", "vm.swapusage", "iogpu")
    # One unknown name makes sysctl fail though it prints the rest, so each family is asked for alone.
    facts: dict[str, str] = {}
    for name in names:
        facts |= read_pairs(run_tool([_SYSCTL, name]) or "", ":")
    translated = facts.get("sysctl.proc_translated") == "1"
    total = whole_number(facts.get("hw.memsize"))
    swap_total, swap_free = parse_swap_usage(facts.get("vm.swapusage", ""))
    displays = run_tool(["/usr/sbin/system_profiler", "SPDisplaysDataType", "-json"], timeout_seconds=5.0)
    wired = whole_number(facts.get("iogpu.wired_limit_mb"))
    return Machine(
        system=System.MACOS,
        system_version=f"macOS {platform.mac_ver()[0]}" if platform.mac_ver()[0] else None,
        kernel=platform.release() or None,
        architecture="arm64" if translated else architecture,
        cpu=build_cpu(facts),
        memory=Memory(
            total=total,
            available=parse_vm_stat(run_tool(["/usr/bin/vm_stat"]) or ""),
            swap_total=swap_total,
            swap_free=swap_free,
        ),
        numa_nodes=1,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        gpus=parse_displays(displays or "", wired_limit=wired * 1024 * 1024 if wired else None),
        rosetta=translated,
    )


def build_cpu(facts: Mapping[str, str]) -> Cpu:
    """Put the processor together from sysctl's names.

    Apple's levels are counted by their names, not their numbers: on M1 to M4 level 0 is ``Performance`` and
    level 1 ``Efficiency``, on M5 they are ``Super`` and ``Performance``.
    """
    performance = efficiency = 0
    levels = 0
    while (cores := whole_number(facts.get(f"hw.perflevel{levels}.physicalcpu"))) is not None:
        name = facts.get(f"hw.perflevel{levels}.name")
        small = name == "Efficiency" if name else levels > 0
        efficiency += cores if small else 0
        performance += 0 if small else cores
        levels += 1
    physical = performance if levels else whole_number(facts.get("hw.physicalcpu"))
    return Cpu(
        model=facts.get("machdep.cpu.brand_string") or None,
        physical_cores=physical,
        logical_cpus=whole_number(facts.get("hw.logicalcpu")) or whole_number(facts.get("hw.ncpu")),
        efficiency_cores=efficiency if levels else 0 if physical else None,
        features=_features(facts),
    )


def parse_vm_stat(text: str) -> int | None:
    """Return the bytes that can be taken without swapping: free, speculative and inactive pages."""
    size = re.search(r"page size of ([0-9]{1,9}) bytes", text)
    if size is None:
        return None
    counts = {name: int(n) for name, n in re.findall(r"^Pages (\w+):\s+([0-9]{1,18})\.", text, re.MULTILINE)}
    if "free" not in counts:
        return None
    return sum(counts.get(name, 0) for name in ("free", "speculative", "inactive")) * int(size[1])


def parse_swap_usage(text: str) -> tuple[int | None, int | None]:
    """Return total and free bytes of ``total = 2048.00M  used = 512.25M  free = 1535.75M  (encrypted)``."""
    sizes = {name: float(n) for name, n in re.findall(r"(total|free) = ([0-9]{1,12}(?:\.[0-9]+)?)M", text)}
    total, free = sizes.get("total"), sizes.get("free")
    return (
        None if total is None else int(total * 1024 * 1024),
        None if free is None else int(free * 1024 * 1024),
    )


def parse_displays(text: str, wired_limit: int | None = None) -> tuple[Gpu, ...]:
    """Read ``system_profiler SPDisplaysDataType -json``.

    ``wired_limit``: bytes that the user lets the GPU take (``iogpu.wired_limit_mb``); without it macOS
    decides, and says so only to Metal programs. Engines use the GPUs alone whose support is built in.
    """
    try:
        entries = json.loads(text)["SPDisplaysDataType"]
    except (ValueError, KeyError, TypeError):
        return ()
    if not isinstance(entries, list):
        return ()
    found = []
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        name = entry.get("sppci_model") or entry.get("_name")
        if isinstance(name, str) and name:
            found.append(_display(entry, name, wired_limit))
    return tuple(found)


def _display(entry: Mapping[str, object], name: str, wired_limit: int | None) -> Gpu:
    vendor = vendor_of_text(f"{entry.get('spdisplays_vendor', '')} {name}".lower())
    maker, backend = (vendor.name, vendor.backend) if vendor is not None else (OTHER_VENDOR, None)
    if backend is not None and backend.module is None:
        return Gpu(maker, name, 0, memory_total=wired_limit, unified=True, backend=backend.word)
    shared = entry.get("spdisplays_vram_shared") or entry.get("_spdisplays_vram_shared")
    own = entry.get("spdisplays_vram") or entry.get("_spdisplays_vram")
    return Gpu(
        vendor=maker,
        name=name,
        memory_total=_size(str(shared or own or "")),
        unified=bool(shared) or (vendor is not None and vendor.integrated(name)),
    )


def _features(facts: Mapping[str, str]) -> tuple[str, ...] | None:
    listed = f"{facts.get('machdep.cpu.features', '')} {facts.get('machdep.cpu.leaf7_features', '')}"
    flags = {ours for name, ours in _ARM_FLAGS.items() if facts.get(name) == "1"}
    words = (*listed.split(), *flags)
    return select_features(words) if words else None


def _size(text: str) -> int | None:
    match = re.fullmatch(r"([0-9]{1,9}) ?([MG])B", text.strip())
    return int(match[1]) << (20 if match[2] == "M" else 30) if match else None
