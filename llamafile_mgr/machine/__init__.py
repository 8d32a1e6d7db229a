"""What this computer is: one snapshot of processor, memory, GPUs and system, and what breaks launches."""

from __future__ import annotations

from llamafile_mgr.machine.checks import diagnose, failures
from llamafile_mgr.machine.detection import detect_machine
from llamafile_mgr.machine.hardware import Cpu, Gpu, Machine, System
from llamafile_mgr.machine.launch import launch_facts
from llamafile_mgr.machine.snapshot import read_snapshot

__all__ = [
    "Cpu",
    "Gpu",
    "Machine",
    "System",
    "detect_machine",
    "diagnose",
    "failures",
    "launch_facts",
    "read_snapshot",
]
