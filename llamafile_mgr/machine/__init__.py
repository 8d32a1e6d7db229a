"""What this computer is: one snapshot of processor, memory, GPUs and system, and what breaks launches."""

from __future__ import annotations

from llamafile_mgr.machine.detection import detect_machine
from llamafile_mgr.machine.entries import Cpu, Gpu, GpuVendor, Machine, Memory, System

__all__ = [
    "Cpu",
    "Gpu",
    "GpuVendor",
    "Machine",
    "Memory",
    "System",
    "detect_machine",
]
