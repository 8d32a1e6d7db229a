"""What this computer is: one snapshot of processor, memory, GPUs and system, and what breaks launches."""

from __future__ import annotations

from llamafile_mgr.machine.checks import diagnose, failures
from llamafile_mgr.machine.detection import detect_machine
from llamafile_mgr.machine.findings import Check, CheckOutcome
from llamafile_mgr.machine.hardware import Cpu, Gpu, Machine, Memory, System
from llamafile_mgr.machine.launch import LaunchFacts, PlaceFacts, PlaceRole, PortFacts, launch_facts
from llamafile_mgr.machine.snapshot import read_snapshot

__all__ = [
    "Check",
    "CheckOutcome",
    "Cpu",
    "Gpu",
    "LaunchFacts",
    "Machine",
    "Memory",
    "PlaceFacts",
    "PlaceRole",
    "PortFacts",
    "System",
    "detect_machine",
    "diagnose",
    "failures",
    "launch_facts",
    "read_snapshot",
]
