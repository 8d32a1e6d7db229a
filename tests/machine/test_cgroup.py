"""Limits of containers and units, both versions, at every level."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.machine.cgroup import Limits, group_directories, parse_cpu_max, read_limits
from llamafile_mgr.machine.hardware import Memory
from llamafile_mgr.machine.linux import (
    build_memory,
    container_name,
    parse_load,
    parse_meminfo,
    pretty_name,
    wsl_version,
)
from tests.machine.machine_captures import capture

GIB = 1024**3
V2_MOUNT = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


def limits(cgroup: str, mountinfo: str, files: dict[str, str]) -> Limits:
    return read_limits(group_directories(cgroup, mountinfo), files.get)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("600000 100000\n", 6.0),
        ("150000 100000", 1.5),
        ("50000", 0.5),
        ("max 100000", None),
        ("", None),
        ("0 100000", None),
        ("5 0", None),
    ],
)
def test_cpu_max(text: str, cpus: float | None) -> None:
    assert parse_cpu_max(text) == cpus


def test_a_container_with_a_namespace_of_its_own() -> None:
    found = limits(
        "0::/\n",
        capture("mountinfo-docker-v2.txt"),
        {
            "/sys/fs/cgroup/cpu.max": "200000 100000\n",
            "/sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
            "/sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
            "/sys/fs/cgroup/memory.stat": f"anon 5\nfile 7\ninactive_file {2 * GIB}\n",
            "/sys/fs/cgroup/cpuset.cpus.effective": "0-63\n",
        },
    )
    assert found == Limits(2.0, 4 * GIB, 1 * GIB, "0-63")


def test_the_tightest_level_of_a_hierarchy_binds() -> None:
    base = "/sys/fs/cgroup/user.slice/app.service"
    found = limits(
        "0::/user.slice/app.service\n",
        V2_MOUNT,
        {
            f"{base}/memory.max": f"{8 * GIB}",
            f"{base}/memory.current": f"{1 * GIB}",
            f"{base}/cpu.max": "max 100000",
            "/sys/fs/cgroup/user.slice/memory.max": f"{10 * GIB}",
            "/sys/fs/cgroup/user.slice/memory.current": f"{9 * GIB}",
            "/sys/fs/cgroup/user.slice/cpu.max": "300000 100000",
        },
    )
    assert (found.memory_limit, found.memory_usage, found.quota) == (10 * GIB, 9 * GIB, 3.0)


def test_memory_high_throttles_before_memory_max_kills() -> None:
    found = limits(
        "0::/\n", V2_MOUNT, {"/sys/fs/cgroup/memory.max": "max", "/sys/fs/cgroup/memory.high": "1000000"}
    )
    assert (found.memory_limit, found.memory_usage) == (1_000_000, None)


def test_version_1_behind_a_mount_root() -> None:
    group = "/system.slice/docker-654dd7b6b8bbfe1739ae3309b471e95ccc82b3a3f56b7879f0a811d68b5c4e1d.scope"
    directory = "/sys/fs/cgroup/cpuacct,cpu"
    mountinfo = capture("mountinfo-docker-v1.txt")
    assert group_directories(f"4:cpuacct,cpu:{group}\n", mountinfo) == {
        "cpuacct": (directory,),
        "cpu": (directory,),
    }
    found = limits(
        f"4:cpuacct,cpu:{group}\n",
        mountinfo,
        {f"{directory}/cpu.cfs_quota_us": "250000", f"{directory}/cpu.cfs_period_us": "100000"},
    )
    assert found.quota == 2.5


def test_version_1_of_the_machine_that_wrote_this() -> None:
    cgroup, mountinfo = capture("cgroup-v1-hybrid-vm.txt"), capture("mountinfo-v1-hybrid-vm.txt")
    own = "/sys/fs/cgroup/memory/service/worker"
    assert group_directories(cgroup, mountinfo)["memory"] == (
        own,
        "/sys/fs/cgroup/memory/service",
        "/sys/fs/cgroup/memory",
    )
    files = {
        f"{own}/memory.limit_in_bytes": "9223372036854771712",
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "/sys/fs/cgroup/cpuset/cpuset.cpus": "0-1",
    }
    assert limits(cgroup, mountinfo, files) == Limits(cpuset="0-1")
    files[f"{own}/memory.limit_in_bytes"] = str(2 * GIB)
    files[f"{own}/memory.usage_in_bytes"] = str(GIB)
    files[f"{own}/memory.stat"] = f"inactive_file 1\ntotal_inactive_file {GIB // 2}\n"
    found = limits(cgroup, mountinfo, files)
    assert (found.memory_limit, found.memory_usage) == (2 * GIB, GIB // 2)


@pytest.mark.parametrize("path", ["/../../host", "/elsewhere"])
def test_a_group_outside_of_what_is_mounted_is_the_mount_point(path: str) -> None:
    mount = "30 25 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
    assert group_directories(f"0::{path}\n", mount) == {"": ("/sys/fs/cgroup",)}
    assert group_directories("0::/../a\n", V2_MOUNT) == {"": ("/sys/fs/cgroup",)}


def test_spaces_in_mount_points() -> None:
    mount = "30 25 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw"
    assert group_directories("0::/a\n", mount) == {"": ("/my groups/a", "/my groups")}


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=50))
def test_any_text_is_read_without_an_error(cgroup: str, mountinfo: str, content: str) -> None:
    read_limits(group_directories(cgroup, mountinfo), lambda _path: content)
    read_limits({"": ("/a",), "cpu": ("/b",), "memory": ("/c",)}, lambda _path: content)


def test_meminfo() -> None:
    own = parse_meminfo(capture("meminfo-this-vm.txt"))
    assert (own["MemTotal"], own["SwapTotal"]) == (24683656 * 1024, 0)
    old = build_memory(parse_meminfo(capture("meminfo-openwrt.txt")), Limits())
    assert (old.available, old.usable) == (80288 * 1024, 80288 * 1024)
    assert parse_meminfo("nonsense\nX: y kB\n") == {}


@pytest.mark.parametrize(
    ("memory", "usable", "ceiling"),
    [
        (Memory(), None, None),
        (Memory(total=8 * GIB, available=5 * GIB), 5 * GIB, 8 * GIB),
        (Memory(8 * GIB, 5 * GIB, 4 * GIB, GIB), 3 * GIB, 4 * GIB),
        (Memory(8 * GIB, 2 * GIB, 4 * GIB, GIB), 2 * GIB, 4 * GIB),
        (Memory(8 * GIB, 5 * GIB, 4 * GIB, None), 4 * GIB, 4 * GIB),
        (Memory(8 * GIB, 5 * GIB, 4 * GIB, 5 * GIB), 0, 4 * GIB),
        (Memory(cgroup_limit=GIB), GIB, GIB),
        (Memory(total=GIB), None, GIB),
    ],
)
def test_usable_memory(memory: Memory, usable: int | None, ceiling: int | None) -> None:
    assert (memory.usable, memory.ceiling) == (usable, ceiling)


@pytest.mark.parametrize(
    ("kernel", "version"),
    [
        ("6.8.0-60-generic", None),
        ("4.4.0-19041-Microsoft", 1),
        ("5.15.90.1-microsoft-standard-WSL2", 2),
        ("6.6.0-custom-WSL2", 2),
        ("", None),
    ],
)
def test_wsl(kernel: str, version: int | None) -> None:
    assert wsl_version(kernel) == version


def test_containers() -> None:
    kubernetes = capture("cgroup-kubernetes-v1.txt")
    assert container_name([], kubernetes, {}) == "kubernetes"
    assert container_name(["/.dockerenv"], "0::/", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == "kubernetes"
    assert container_name(["/.dockerenv"], "0::/", {}) == "docker"
    assert container_name(["/run/.containerenv"], "0::/", {"container": "oci"}) == "podman"
    assert container_name([], "0::/", {"container": "lxc"}) == "lxc"
    assert container_name([], "0::/", {"container": "rm -rf /"}) is None
    assert container_name([], "0::/user.slice", {}) is None


def test_small_words() -> None:
    assert parse_load("0.45 0.30 0.20 1/200 1234\n") == 0.45
    assert parse_load("") is None
    assert [parse_load(text) for text in ("x", "nan 1", "inf", "-1 0")] == [None] * 4
    assert pretty_name('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n').startswith("Debian")  # type: ignore[union-attr]
    assert pretty_name("ID=x\n") is None
