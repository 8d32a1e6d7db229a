"""What this computer is: one snapshot of processor, memory, GPUs and system, and what breaks launches."""

from __future__ import annotations

from llamafile_mgr.machine.hardware import Cpu, Gpu, Machine, Memory, System

__all__ = ["Cpu", "Gpu", "Machine", "Memory", "System"]
