"""Apple's GPUs: of Apple silicon alone, with main memory as theirs; ``macos.py`` reads the system's list.

Support for them is built into engines.
"""

from __future__ import annotations

from llamafile_mgr.machine.gpu_vendor import GpuBackend, GpuVendor

APPLE = GpuVendor(
    name="apple",
    pci=(0x106B,),
    marks=("apple",),
    backend=GpuBackend("apple", in_old_engines=True),
    integrated=lambda name: True,
    quick_unified=True,
)
