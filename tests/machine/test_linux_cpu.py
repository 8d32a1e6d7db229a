"""Processors of real machines: models, instruction sets, performance cores."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.machine.cgroup import Limits
from llamafile_mgr.machine.hardware import Cpu
from llamafile_mgr.machine.linux import build_cpu
from llamafile_mgr.machine.linux_cpu import (
    CpuInfo,
    cores_among,
    parse_cpu_list,
    parse_cpuinfo,
    read_topology,
)
from tests.machine.machine_captures import capture, topology


@pytest.mark.parametrize(
    ("name", "model", "logical", "has", "lacks"),
    [
        ("epyc-7451-two-sockets", "AMD EPYC 7451 24-Core Processor", 96, "avx avx2 fma f16c", "avx512f"),
        (
            "core-i7-1165g7",
            "11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz",
            8,
            "avx512f avx512_vnni",
            "neon",
        ),
        ("core-i5-3317u-virtualbox", "Intel(R) Core(TM) i5-3317U CPU @ 1.70GHz", 2, "sse2 ssse3", "avx"),
        ("core-i5-m560", "Intel(R) Core(TM) i5 CPU       M 560  @ 2.67GHz", 4, "sse4_2", "avx f16c"),
        ("opteron-6328-vmware", "AMD Opteron(tm) Processor 6328", 16, "avx fma f16c", "avx2"),
        ("xeon-x7550-four-sockets", "Intel(R) Xeon(R) CPU           X7550  @ 2.00GHz", 64, "sse4_2", "avx"),
        ("celeron-n5105", "Intel(R) Celeron(R) N5105 @ 2.00GHz", 1, "sse4_2 sse3", "avx avx2"),
        ("epyc-vm", "AMD EPYC", 2, "avx avx2 fma f16c", "avx512f"),
        ("raspberry-pi-5", "Raspberry Pi 5 Model B Rev 1.0", 4, "neon dotprod fp16", "sve avx"),
        ("graviton3", None, 1, "neon dotprod sve", "avx"),
        ("snapdragon-8-gen-2", None, 8, "neon dotprod i8mm bf16", "avx"),
        ("armv7-board", "SAMSUNG EXYNOS5 (Flattened Device Tree)", 2, "neon", "dotprod"),
    ],
)
def test_cpuinfo_of_real_machines(name: str, model: str | None, logical: int, has: str, lacks: str) -> None:
    info = parse_cpuinfo(capture(f"{name}.cpuinfo.txt"))
    assert info.model == model
    assert info.logical_cpus == logical
    assert info.features is not None
    assert set(has.split()) <= set(info.features)
    assert not set(lacks.split()) & set(info.features)


@pytest.mark.parametrize("name", ["visionfive2", "power7"])
def test_processors_that_name_no_features_have_none_known(name: str) -> None:
    info = parse_cpuinfo(capture(f"{name}.cpuinfo.txt"))
    assert info.features is None
    assert Cpu(features=info.features).has("avx") is None


@pytest.mark.parametrize(
    ("name", "performance", "efficiency"),
    [
        ("epyc-7451-two-sockets", 48, 0),
        ("core-i7-1165g7", 4, 0),
        ("core-i5-m560", 2, 0),
        ("xeon-x7550-four-sockets", 32, 0),
        ("opteron-6328-vmware", 8, 0),
        ("core-i5-3317u-virtualbox", 2, 0),
        ("power7", 4, 0),
        ("loongson-3a5000", 4, 0),
        ("visionfive2", 4, 0),
        ("armv7-board", 2, 0),
        ("snapdragon-8-gen-2", 5, 3),
        ("rk3588", 4, 4),
        ("core-ultra-9-185h", 6, 10),
    ],
)
def test_performance_cores_of_real_machines(name: str, performance: int, efficiency: int) -> None:
    found = read_topology(*topology(name))
    assert found is not None
    assert (len(found.performance), len(found.efficiency)) == (performance, efficiency)


def test_a_machine_without_topology_says_nothing() -> None:
    assert read_topology({}) is None


def test_only_small_cores_are_the_performance_cores() -> None:
    found = read_topology({0: "0", 1: "1"}, efficiency_list="0-1")
    assert found is not None
    assert (len(found.performance), len(found.efficiency)) == (2, 0)


def test_cores_within_a_set_of_cpus() -> None:
    hybrid = read_topology(*topology("core-ultra-9-185h"))
    assert hybrid is not None
    assert cores_among(hybrid, range(22)) == 6
    assert cores_among(hybrid, [1, 2, 3]) == 2  # two threads of one core, one of another
    assert cores_among(hybrid, [12, 13, 20]) == 3  # nothing but efficiency cores
    assert cores_among(hybrid, []) == 0


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}),
        ("", set()),
        ("5", {5}),
        ("x,2,3-", {2}),
        ("9-3", set()),
        ("0-99999999999", set()),
    ],
)
def test_cpu_lists(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus


@given(st.frozensets(st.integers(0, 300)))
def test_cpu_lists_round_trip(cpus: frozenset[int]) -> None:
    assert parse_cpu_list(",".join(map(str, sorted(cpus)))) == cpus


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=400))
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse_cpuinfo(text)
    parse_cpu_list(text)
    read_topology({0: text}, {0: text}, text)


@pytest.mark.parametrize(
    ("cpu", "usable"),
    [
        (Cpu(physical_cores=8, logical_cpus=16), 8),
        (Cpu(physical_cores=32, logical_cpus=64, quota=2.0, cpuset=64, cpuset_cores=32), 2),
        (Cpu(physical_cores=32, logical_cpus=64, quota=2.9), 2),
        (Cpu(physical_cores=4, logical_cpus=8, quota=0.5), 1),
        (Cpu(physical_cores=16, logical_cpus=32, cpuset=4, cpuset_cores=2), 2),
        (Cpu(physical_cores=16, logical_cpus=32, cpuset=4), 4),
        (Cpu(logical_cpus=6), 6),
        (Cpu(), 1),
    ],
)
def test_usable_cores(cpu: Cpu, usable: int) -> None:
    assert cpu.usable_cores == usable


def test_the_set_is_the_smaller_of_mask_and_cgroup() -> None:
    machine = read_topology(*topology("core-i7-1165g7"))
    info = CpuInfo("i7", ("avx2",), 8, 4)
    cpu = build_cpu(info, machine, Limits(cpuset="0-3"), {0, 1, 4, 5})
    assert (cpu.cpuset, cpu.cpuset_cores) == (2, 2)
    cpu = build_cpu(info, machine, Limits(), {0, 4})
    assert (cpu.cpuset, cpu.cpuset_cores, cpu.usable_cores) == (2, 1, 1)
    cpu = build_cpu(info, None, Limits(quota=1.5), None)
    assert (cpu.physical_cores, cpu.cpuset, cpu.usable_cores) == (4, None, 1)
