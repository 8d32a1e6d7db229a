"""GPUs from captured outputs, and each of them counted once."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.machine import Gpu, Machine, System
from llamafile_mgr.machine.amd import gfx_name, parse_kfd_properties, parse_rocm_smi, with_smi
from llamafile_mgr.machine.gpu_vendor import DrmCard
from llamafile_mgr.machine.hardware import Memory
from llamafile_mgr.machine.linux_gpu import find_gpus, merge, read_drm_cards
from llamafile_mgr.machine.nvidia import find_nvidia, parse_smi
from llamafile_mgr.machine.vulkan import parse_vulkan_summary
from tests.machine.machine_captures import capture

MIB, GIB = 1024**2, 1024**3


def test_two_nvidia_cards() -> None:
    first, second = parse_smi(capture("nvidia-two-cards.csv"))
    assert first == Gpu(
        "nvidia", "NVIDIA TITAN V", 0, 12288 * MIB, 11234 * MIB, False, "7.0", "570.86.15", "nvidia"
    )
    assert (second.index, second.compute_capability) == (1, "8.9")


def test_a_driver_that_knows_no_compute_capability() -> None:
    (card,) = parse_smi(capture("nvidia-old-driver.csv"))
    assert (card.name, card.compute_capability, card.driver) == ("GeForce RTX 2080", None, "440.64")


@pytest.mark.parametrize("name", ["nvidia-gb10.csv", "nvidia-jetson-orin.csv"])
def test_a_gpu_without_memory_of_its_own_is_unified_and_its_memory_unknown(name: str) -> None:
    (card,) = parse_smi(capture(name))
    assert card.unified
    assert (card.memory_total, card.memory_free, card.backend) == (None, None, "nvidia")


def test_a_lost_card_is_not_unified() -> None:
    good, lost = parse_smi(capture("nvidia-lost.csv"))
    assert good.memory_free == 2173 * MIB
    assert (lost.unified, lost.memory_total, lost.driver) == (False, None, None)


@pytest.mark.parametrize("text", ["", "NVIDIA-SMI has failed because it couldn't communicate", "a,b\n0,x\n"])
def test_nonsense_of_nvidia_smi(text: str) -> None:
    assert parse_smi(text) == ()


def fake_tool(folder: Path, name: str, script: str) -> None:
    """Put a program on PATH that answers like the real one."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_an_old_nvidia_smi_is_asked_again_without_the_new_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tool(
        tmp_path,
        "nvidia-smi",
        "case $1 in *compute_cap*) echo 'Field \"compute_cap\" is not a valid field.'; exit 2;; esac\n"
        "echo '0, GeForce RTX 2080, 7979, 6941, 440.64'",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert [card.name for card in find_nvidia()] == ["GeForce RTX 2080"]


NVML = """
class NVMLError(Exception):
    pass
CALLS = []
class Memory:
    total, free = 24 * 2**30, 20 * 2**30
def nvmlInit(): CALLS.append("init")
def nvmlShutdown(): CALLS.append("shutdown")
def nvmlSystemGetDriverVersion(): return b"570.86.15"
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return b"NVIDIA GeForce RTX 4090" if handle == 0 else "NVIDIA GB10"
def nvmlDeviceGetMemoryInfo(handle):
    if handle: raise NVMLError("Not Supported")
    return Memory
def nvmlDeviceGetCudaComputeCapability(handle): return (8, 9) if handle == 0 else (12, 1)
"""


def test_nvml_in_place_of_the_drivers_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pynvml.py").write_text(NVML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    discrete, integrated = find_nvidia()
    assert sys.modules.pop("pynvml").CALLS == ["init", "shutdown"]
    assert discrete == Gpu(
        "nvidia",
        "NVIDIA GeForce RTX 4090",
        0,
        24 * GIB,
        20 * GIB,
        False,
        "8.9",
        "570.86.15",
        "nvidia",
    )
    assert (integrated.unified, integrated.memory_total, integrated.memory_free) == (True, None, None)
    assert integrated.compute_capability == "12.1"


def test_nvml_without_a_driver_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pynvml.py").write_text(NVML.replace('CALLS.append("init")', "raise NVMLError"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    fake_tool(tmp_path, "nvidia-smi", "echo '0, T4, 15360, 15000, 550.1, 7.5'")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert [gpu.name for gpu in find_nvidia()] == ["T4"]
    sys.modules.pop("pynvml")


def test_rocm_smi() -> None:
    (card,) = parse_rocm_smi(capture("rocm-smi-7900xt.json")).values()
    assert (card["name"], card["target"], card["vram_total"]) == ("Radeon RX 7900 XT", "gfx1100", 21458059264)
    both = parse_rocm_smi(capture("rocm-smi-r9700-and-780m.json"))
    assert [card["target"] for card in both.values()] == ["gfx1201", "gfx1103"]
    assert [card["name"] for card in both.values()] == [None, None]
    (old,) = parse_rocm_smi(capture("rocm-smi-old-keys.json")).values()
    assert (old["name"], old["vram_used"]) == ("Radeon RX 7900 XTX", 12876513280)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"card0": 1}', "ERROR: No AMD GPUs"])
def test_nonsense_of_rocm_smi(text: str) -> None:
    assert parse_rocm_smi(text) == {}


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (0, None),
        (90008, "gfx908"),
        (90010, "gfx90a"),
        (110000, "gfx1100"),
        (110501, "gfx1151"),
        (120001, "gfx1201"),
    ],
)
def test_gfx_names(version: int, name: str | None) -> None:
    assert gfx_name(version) == name


def test_kfd_nodes() -> None:
    gpu = parse_kfd_properties(capture("kfd-arcturus.properties.txt"))
    assert (gpu["gfx_target_version"], gpu["drm_render_minor"]) == (90008, 128)
    assert parse_kfd_properties(capture("kfd-cpu-node.properties.txt"))["gfx_target_version"] == 0
    assert parse_kfd_properties("a\nb c\n") == {}


def test_vulkan_devices() -> None:
    intel, nvidia = parse_vulkan_summary(capture("vulkan-raptor-lake-and-rtx4070.txt"))
    assert (intel.vendor_id, intel.device_id, intel.integrated) == (0x8086, 0xA788, True)
    assert (nvidia.vendor_id, nvidia.integrated, nvidia.driver) == (0x10DE, False, "NVIDIA 595.84")
    assert parse_vulkan_summary(capture("vulkan-failed.txt")) == ()


def test_the_processor_in_disguise_is_no_gpu() -> None:
    devices = parse_vulkan_summary(capture("vulkan-powervr-and-llvmpipe.txt").replace("   GPU", "GPU"))
    assert [device.software for device in devices] == [False, True]
    (gpu,) = merge((), (), [device for device in devices if not device.software])
    assert (gpu.name, gpu.vendor, gpu.unified, gpu.backend) == (
        "PowerVR A-Series AXE-1-16M",
        "other",
        True,
        "vulkan",
    )


def card(name: str, vendor: str, device: int, slot: str, **more: object) -> DrmCard:
    values: dict[str, object] = {"driver": "x", "node": True} | more
    return DrmCard(name, vendor, device, slot, **values)  # type: ignore[arg-type]


def test_a_laptop_with_two_gpus_counts_each_once() -> None:
    nvidia = parse_smi("0, NVIDIA GeForce RTX 4070 Laptop GPU, 8188, 7800, 595.84, 8.9")
    cards = (
        card("card1", "nvidia", 0x2860, "0000:01:00.0"),
        card("card0", "intel", 0xA788, "0000:00:02.0", integrated=True),
    )
    devices = parse_vulkan_summary(capture("vulkan-raptor-lake-and-rtx4070.txt"))
    found = merge(nvidia, cards, devices)
    assert [(g.vendor, g.backend, g.unified) for g in found] == [
        ("nvidia", "nvidia", False),
        ("intel", "vulkan", True),
    ]
    assert found[1].memory_total is None


def test_an_integrated_amd_gpu_shares_main_memory() -> None:
    strix = card(
        "card0",
        "amd",
        0x150E,
        "0000:c1:00.0",
        target="gfx1150",
        direct=True,
        vram_total=512 * MIB,
        vram_used=100 * MIB,
        mapped_total=16 * GIB,
        mapped_used=GIB,
    )
    (gpu,) = merge((), (with_smi(strix, {}),), parse_vulkan_summary(capture("vulkan-strix-point.txt")))
    assert (gpu.unified, gpu.backend, gpu.index) == (True, "amd", 0)
    assert gpu.memory_total == 512 * MIB + 16 * GIB
    assert gpu.name == "AMD Radeon 890M Graphics (RADV STRIX1)"
    machine = Machine(System.LINUX, memory=Memory(total=32 * GIB, available=4 * GIB), gpus=(gpu,))
    assert machine.memory_of(gpu) == 4 * GIB


def test_a_dedicated_amd_gpu_keeps_its_own_memory_and_order() -> None:
    cards = (
        card("card1", "amd", 0x744C, "0000:09:00.0", target="gfx1100", direct=True, vram_total=24 * GIB),
        card("card0", "amd", 0x744C, "0000:03:00.0", target="gfx1100", direct=True, vram_total=20 * GIB),
    )
    smi = parse_rocm_smi(capture("rocm-smi-7900xt.json"))
    found = merge((), [with_smi(each, smi.get(each.card, {})) for each in cards], ())
    assert [(g.index, g.memory_total, g.unified) for g in found] == [
        (0, 20 * GIB, False),
        (1, 24 * GIB, False),
    ]
    assert found[0].name == "Radeon RX 7900 XT"
    assert found[1].name == "amd GPU 744c"


def test_a_gpu_that_the_container_was_not_given_has_no_backend() -> None:
    shut = card("card0", "amd", 1, "0000:03:00.0", target="gfx1100", direct=True, node=False)
    (gpu,) = merge((), (shut,), ())
    assert gpu.backend is None


def drm_tree(root: Path) -> None:
    device = root / "sys/class/drm/card0/device"
    (device / "drm/renderD128").mkdir(parents=True)
    (device / "uevent").write_text(
        "DRIVER=amdgpu\nPCI_CLASS=30000\nPCI_ID=1002:744C\nPCI_SLOT_NAME=0000:03:00.0\n"
    )
    (device / "mem_info_vram_total").write_text("25753026560\n")
    (device / "mem_info_vram_used").write_text("8341966848\n")
    (device / "product_name").write_text("AMD Radeon RX 7900 XTX\n")
    (root / "sys/class/drm/card0-DP-1").mkdir()
    console = root / "sys/class/drm/card1/device"
    console.mkdir(parents=True)
    (console / "uevent").write_text("DRIVER=ast\nPCI_ID=1A03:2000\nPCI_SLOT_NAME=0000:05:00.0\n")
    node = root / "sys/class/kfd/kfd/topology/nodes/1"
    node.mkdir(parents=True)
    (node / "properties").write_text("gfx_target_version 110000\ndrm_render_minor 128\nvendor_id 4098\n")
    (root / "dev/dri").mkdir(parents=True)
    (root / "dev/dri/renderD128").touch()
    (root / "dev/kfd").touch()


def test_the_kernels_files_of_an_amd_machine(tmp_path: Path) -> None:
    drm_tree(tmp_path)
    (found,) = read_drm_cards(tmp_path / "sys", tmp_path / "dev")
    assert (found.card, found.target, found.node, found.direct) == ("card0", "gfx1100", True, True)
    (gpu,) = find_gpus(tmp_path / "sys", tmp_path / "dev")
    assert gpu == Gpu(
        "amd",
        "AMD Radeon RX 7900 XTX",
        0,
        25753026560,
        25753026560 - 8341966848,
        False,
        "gfx1100",
        "amdgpu",
        "amd",
    )


def test_a_machine_without_displays(tmp_path: Path) -> None:
    assert read_drm_cards(tmp_path / "sys", tmp_path / "dev") == ()


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse_smi(text)
    parse_rocm_smi(text)
    parse_kfd_properties(text)
    parse_vulkan_summary(text)


def test_memory_of_a_gpu() -> None:
    machine = Machine(System.LINUX, memory=Memory(total=16 * GIB, available=10 * GIB))
    assert machine.memory_of(Gpu("nvidia", "x", memory_total=8 * GIB, memory_free=6 * GIB)) == 6 * GIB
    assert machine.memory_of(Gpu("nvidia", "x", memory_total=8 * GIB)) == 8 * GIB
    assert machine.memory_of(Gpu("nvidia", "x")) is None
    assert machine.memory_of(Gpu("apple", "x", unified=True)) == 10 * GIB
    assert machine.memory_of(Gpu("apple", "x", memory_total=6 * GIB, unified=True)) == 6 * GIB
