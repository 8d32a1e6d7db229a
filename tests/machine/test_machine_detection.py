"""The real machine that runs the tests, and tools that hang."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

import psutil
import pytest

from llamafile_mgr.machine import System
from llamafile_mgr.machine.detection import detect_machine, detect_other, name_architecture
from llamafile_mgr.machine.library import affinity, port_owner
from llamafile_mgr.machine.reading import read_text, run_tool


def test_this_machine() -> None:
    machine = detect_machine()
    assert machine.system.value in {"linux", "macos", "windows", "other"}
    assert machine.architecture == name_architecture(platform.machine())
    assert machine.cpu.logical_cpus
    assert machine.cpu.physical_cores
    assert 1 <= machine.cpu.usable_cores <= machine.cpu.logical_cpus
    assert machine.memory.total is not None
    assert 0 < (machine.memory.usable or 0) <= machine.memory.total


def test_it_agrees_with_psutil() -> None:
    machine = detect_machine()
    assert machine.memory.total == psutil.virtual_memory().total
    assert machine.cpu.logical_cpus == psutil.cpu_count()
    cores = (machine.cpu.physical_cores or 0) + (machine.cpu.efficiency_cores or 0)
    assert cores == psutil.cpu_count(logical=False)


def test_systems_without_a_module_of_their_own() -> None:
    machine = detect_other("x86_64")
    assert (machine.system, machine.architecture) == (System.OTHER, "x86_64")
    assert machine.memory.total == psutil.virtual_memory().total
    assert machine.cpu.usable_cores >= 1


@pytest.mark.parametrize(
    ("word", "name"),
    [("AMD64", "x86_64"), ("x86_64", "x86_64"), ("aarch64", "arm64"), ("riscv64", "riscv64"), ("", None)],
)
def test_architectures(word: str, name: str | None) -> None:
    assert name_architecture(word) == name


def test_a_tool_that_hangs_is_stopped() -> None:
    started = time.monotonic()
    assert run_tool(["sleep", "600"], timeout_seconds=0.2) is None
    assert time.monotonic() - started < 60


def test_tools_that_fail_say_nothing(tmp_path: Path) -> None:
    assert run_tool(["no-such-tool-anywhere"]) is None
    assert run_tool([sys.executable, "-c", "print('half'); raise SystemExit(3)"]) is None
    assert run_tool([str(tmp_path)]) is None
    assert run_tool(["bad\0name"]) is None
    assert run_tool([sys.executable, "-c", "import os; print(os.environ['LC_ALL'])"]) == "C\n"


def test_files_that_cannot_be_read_say_nothing(tmp_path: Path) -> None:
    assert read_text(tmp_path / "none") is None
    assert read_text(tmp_path) is None
    (tmp_path / "bytes").write_bytes(b"a\xff")
    assert read_text(tmp_path / "bytes") == "a\ufffd"


def test_affinity_and_owner_of_a_port_nobody_has() -> None:
    assert affinity() is None or affinity() == len(os.sched_getaffinity(0))
    assert port_owner("127.0.0.1", 0) is None
