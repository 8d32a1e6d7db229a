"""Macs and Windows computers, from captured and composed texts: neither system ran these tests."""

from __future__ import annotations

import struct

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.machine import System
from llamafile_mgr.machine.macos import (
    build_cpu,
    detect_macos,
    parse_displays,
    parse_swap_usage,
    parse_vm_stat,
)
from llamafile_mgr.machine.reading import read_pairs
from llamafile_mgr.machine.windows import count_cores, detect_windows, parse_video_controllers
from tests.machine.machine_captures import capture

GIB = 1024**3


@pytest.mark.parametrize(
    ("name", "performance", "efficiency", "logical"),
    [
        ("sysctl-m1-pro.txt", 8, 2, 10),
        ("sysctl-m1.txt", 4, 4, 8),
        ("sysctl-m5-max.txt", 18, 0, None),  # its levels are called Super and Performance
    ],
)
def test_apple_levels(name: str, performance: int, efficiency: int, logical: int | None) -> None:
    cpu = build_cpu(read_pairs(capture(name), ":"))
    assert (cpu.physical_cores, cpu.efficiency_cores, cpu.logical_cpus) == (performance, efficiency, logical)


def test_features_of_macs() -> None:
    intel = build_cpu(read_pairs(capture("sysctl-intel-mac.txt"), ":"))
    assert all(intel.has(word) for word in ("avx", "avx2", "fma", "f16c", "sse3", "sse4_2"))
    apple = build_cpu(read_pairs(capture("sysctl-m1.txt"), ":"))
    assert apple.has("dotprod")
    assert build_cpu({}).features is None
    assert build_cpu({"hw.physicalcpu": "4", "hw.logicalcpu": "8"}).efficiency_cores == 0


def test_displays_of_macs() -> None:
    (m1,) = parse_displays(capture("displays-m1-air.json"))
    assert (m1.name, m1.vendor, m1.unified, m1.backend) == ("Apple M1", "apple", True, "apple")
    assert m1.memory_total is None
    (m3,) = parse_displays(capture("displays-m3-max.json"), wired_limit=48 * GIB)
    assert m3.memory_total == 48 * GIB
    intel, amd = parse_displays(capture("displays-intel-mac.json"))
    assert (intel.vendor, intel.unified, intel.backend) == ("intel", True, None)
    assert (amd.vendor, amd.memory_total, amd.unified, amd.backend) == ("amd", 8 * GIB, False, None)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"SPDisplaysDataType": "text"}', '{"SPDisplaysDataType": [1, {}]}']
)
def test_nonsense_of_system_profiler(text: str) -> None:
    assert parse_displays(text) == ()


def test_memory_of_macs() -> None:
    assert parse_vm_stat(capture("vm-stat-m-series.txt")) == (5264 + 286641 + 16492) * 16384
    assert parse_vm_stat("Pages free: 10.\n") is None
    assert parse_vm_stat("(page size of 4096 bytes)\n") is None
    assert parse_swap_usage("total = 2048.00M  used = 512.25M  free = 1535.75M  (encrypted)") == (
        2 * GIB,
        int(1535.75 * 1024**2),
    )
    assert parse_swap_usage("") == parse_swap_usage("total = 1.2.3 free = M") == (None, None)


def core_record(efficiency: int, masks: list[int]) -> bytes:
    """Return one record as ``GetLogicalProcessorInformationEx`` documents it."""
    groups = b"".join(struct.pack("<QHHHH", mask, i, 0, 0, 0) for i, mask in enumerate(masks))
    body = struct.pack("<BB20xH", int(masks[0].bit_count() > 1), efficiency, len(masks)) + groups
    return struct.pack("<II", 0, 8 + len(body)) + body


def test_cores_of_windows() -> None:
    alder_lake = b"".join(core_record(1, [0b11 << (2 * i)]) for i in range(8))
    alder_lake += b"".join(core_record(0, [1 << (16 + i)]) for i in range(4))
    assert count_cores(alder_lake) == (8, 4, 20)
    assert count_cores(core_record(0, [0b11]) * 6) == (6, 0, 12)
    cache = struct.pack("<II", 2, 48) + bytes(40)
    assert count_cores(cache + core_record(0, [1])) == (1, 0, 1)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        core_record(0, [1])[:20],
        struct.pack("<II", 0, 4) + bytes(40),
        struct.pack("<II", 0, 9999) + bytes(40),
    ],
)
def test_damaged_records_say_nothing(damaged: bytes) -> None:
    assert count_cores(damaged) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    count_cores(data)


def test_displays_of_windows() -> None:
    (radeon,) = parse_video_controllers(capture("windows-video-controllers.json"))
    assert (radeon.name, radeon.vendor, radeon.memory_total) == (
        "AMD Radeon(TM) 880M Graphics",
        "amd",
        512 * 1024**2,
    )
    (large,) = parse_video_controllers(capture("windows-video-controller-16gb.json"))
    assert large.memory_total is None  # the field is full, so the size is unknown
    assert parse_video_controllers("") == ()
    assert parse_video_controllers("null") == ()


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse_displays(text)
    parse_video_controllers(text)
    parse_vm_stat(text)
    parse_swap_usage(text)
    build_cpu(read_pairs(text, ":"))


def test_without_the_systems_own_tools_everything_is_unknown_and_nothing_fails() -> None:
    mac = detect_macos("arm64")
    assert (mac.system, mac.architecture, mac.gpus) == (System.MACOS, "arm64", ())
    assert mac.cpu.usable_cores == 1
    windows = detect_windows("x86_64")
    assert (windows.system, windows.memory.total) == (System.WINDOWS, psutil.virtual_memory().total)
    assert windows.cpu.physical_cores is None
    assert windows.cpu.features is None
