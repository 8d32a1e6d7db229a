"""One snapshot of this computer: picks the system's own way and falls back to psutil."""

from __future__ import annotations

import os
import platform
import sys

from llamafile_mgr.machine import library
from llamafile_mgr.machine.hardware import Cpu, Machine, System

_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64", "armv8l": "arm64"}


def detect_machine() -> Machine:
    """Return one snapshot of this computer.

    Blocks for some milliseconds, plus what the GPU tools take where there is something for them to
    find; each of them is stopped at its deadline. Never raises for what a machine does not tell.
    """
    architecture = name_architecture(platform.machine())
    if sys.platform.startswith("linux"):
        from llamafile_mgr.machine.linux import detect_linux

        return detect_linux(architecture)
    elif sys.platform == "darwin":
        from llamafile_mgr.machine.macos import detect_macos

        return detect_macos(architecture)
    elif sys.platform == "win32":
        from llamafile_mgr.machine.windows import detect_windows

        return detect_windows(architecture)
    else:
        return detect_other(architecture)


def name_architecture(word: str) -> str | None:
    """Return ``x86_64`` or ``arm64`` for the system's many words, others unchanged in lower case."""
    word = word.lower()
    return _ARCHITECTURES.get(word, word) or None


def detect_other(architecture: str | None) -> Machine:
    """Return what psutil tells, on systems without a module of their own (the BSDs)."""
    return Machine(
        system=System.OTHER,
        system_version=f"{platform.system()} {platform.release()}".strip() or None,
        kernel=platform.release() or None,
        architecture=architecture,
        cpu=Cpu(
            model=platform.processor() or None,
            physical_cores=library.cpu_count(logical=False),
            logical_cpus=library.cpu_count(),
        ),
        memory=library.memory(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )
