"""GPU memory by process, as NVIDIA's tools tell it. The form is that of nvidia-smi's manual page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llamafile_mgr.machine import nvidia
from llamafile_mgr.machine.nvidia import find_process_memory, parse_process_memory
from llamafile_mgr.machine.vendors import gpu_memory_of

MIB = 1 << 20
LISTED = "4711, 5012\n4712, 350\n815, [N/A]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LISTED, ((4711, 5012 * MIB), (4712, 350 * MIB), (815, None))),
        ("4711, [Insufficient Permissions]\n", ((4711, None),)),
        ("", ()),
        ("No running processes found\n", ()),
        ("4711, 5, 6\nx, 7\n", ()),
    ],
)
def test_the_list_of_processes(text: str, expected: tuple[tuple[int, int | None], ...]) -> None:
    assert parse_process_memory(text) == expected


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a tool of that name on the path, on a computer without NVML."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTED}END\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(nvidia, "_list_nvml_processes", lambda: None)


@pytest.mark.usefixtures("smi")
@pytest.mark.parametrize(
    ("pids", "expected"),
    [({4711}, 5012 * MIB), ({4711, 4712}, 5362 * MIB), ({815}, None), ({1}, None), (set(), None)],
)
def test_what_is_not_listed_is_unknown(pids: set[int], expected: int | None) -> None:
    assert find_process_memory(pids) == expected
    assert gpu_memory_of(pids) == expected


@pytest.mark.parametrize(
    ("listed", "as_host", "expected"),
    [
        (((4711, 5 * MIB), (4712, MIB)), True, 5 * MIB),
        (((4711, 5 * MIB), (4711, 3 * MIB)), False, 8 * MIB),  # on two GPUs
        (((4711, None),), True, None),
        (((4711, None), (4711, MIB)), True, MIB),
        (((1, MIB),), True, 0),
        ((), True, 0),
        ((), False, None),  # a container, whose processes have other numbers for the driver
        (((1, MIB),), False, None),
    ],
)
def test_nvml(
    monkeypatch: pytest.MonkeyPatch,
    listed: tuple[tuple[int, int | None], ...],
    as_host: bool,
    expected: int | None,
) -> None:
    monkeypatch.setattr(nvidia, "_list_nvml_processes", lambda: listed)
    monkeypatch.setattr(nvidia, "_numbers_as_host", lambda: as_host)
    assert find_process_memory({4711}) == expected


NVML = """
class NVMLError(Exception): pass
class Process:
    def __init__(self, pid, size): self.pid, self.usedGpuMemory = pid, size
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetComputeRunningProcesses(gpu): return [Process(4711, 5 << 20)] if gpu == 0 else []
def nvmlDeviceGetGraphicsRunningProcesses(gpu): return [Process(4711, 5 << 20), Process(99, None)]
"""


def test_the_lists_of_nvml_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are those of nvidia-ml-py; a process that computes and draws stands in both lists."""
    (tmp_path / "pynvml.py").write_text(NVML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    assert find_process_memory({4711}) == 10 * MIB
    assert find_process_memory({99}) is None
    sys.modules.pop("pynvml")


def test_without_a_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_process_memory({1}) is None
