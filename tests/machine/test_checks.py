"""The judgement: every fact that breaks something has a check with a consequence and a fix."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict

import pytest

from llamafile_mgr.machine import Cpu, Gpu, Machine, Memory, System
from llamafile_mgr.machine.binfmt import BinfmtHandler
from llamafile_mgr.machine.checks import diagnose, failures
from llamafile_mgr.machine.findings import Check, CheckOutcome
from llamafile_mgr.machine.launch import LaunchFacts, PlaceFacts, PlaceRole, PortFacts

GIB = 1024**3
GOOD = Machine(
    system=System.LINUX,
    system_version="Debian GNU/Linux 12",
    architecture="x86_64",
    cpu=Cpu("i7", 8, 16, 0, ("avx", "avx2", "f16c", "fma")),
    memory=Memory(16 * GIB, 12 * GIB),
    load=0.1,
)
FACTS = LaunchFacts(
    places=tuple(
        PlaceFacts(role, f"/x/{role.name.lower()}", True, True, False, 100 * GIB) for role in PlaceRole
    ),
    ports=(PortFacts("127.0.0.1", 8080, True), PortFacts("::1", 8080, True)),
    memlock_bytes=-1,
    open_files=1024,
    page_size=4096,
)


def place(role: PlaceRole, **changes: object) -> LaunchFacts:
    places = tuple(
        dataclasses.replace(p, **changes) if p.role is role else p  # type: ignore[arg-type]
        for p in FACTS.places
    )
    return dataclasses.replace(FACTS, places=places)


def facts(**changes: object) -> LaunchFacts:
    return dataclasses.replace(FACTS, **changes)  # type: ignore[arg-type]


def machine(**changes: object) -> Machine:
    return dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]


def cpu(**changes: object) -> Machine:
    return machine(cpu=dataclasses.replace(GOOD.cpu, **changes))  # type: ignore[arg-type]


def test_a_good_machine_passes_everything() -> None:
    checks = diagnose(GOOD, FACTS)
    assert {check.outcome for check in checks} == {CheckOutcome.PASS}
    assert failures(checks) == ()
    assert all(check.consequence is None and check.fix is None for check in checks)


FAIL, WARN = CheckOutcome.FAIL, CheckOutcome.WARN
CASES = [
    ("no-avx", cpu(features=("sse2",)), FACTS, "cpu-features", FAIL, "AVX"),
    ("avx-alone", cpu(features=("avx",)), FACTS, "cpu-features", WARN, "AVX2, FMA, F16C"),
    ("unknown-features", cpu(features=None), FACTS, "cpu-features", WARN, "nothing tells"),
    ("small-quota", cpu(quota=0.5), FACTS, "cores", WARN, "0.5 CPUs"),
    ("cpuset", cpu(cpuset=2, quota=0.9), FACTS, "cores", WARN, "2 of 16 CPUs"),
    ("busy", machine(load=20.0), FACTS, "load", WARN, "20.0"),
    ("no-memory", machine(memory=Memory(GIB, 100)), FACTS, "memory", FAIL, "usable"),
    ("little-memory", machine(memory=Memory(GIB, GIB)), FACTS, "memory", WARN, "1.0 GiB"),
    ("group", machine(memory=Memory(64 * GIB, 60 * GIB, GIB, 0)), FACTS, "memory", WARN, "cgroup"),
    ("unknown-memory", machine(memory=Memory()), FACTS, "memory", WARN, "nothing tells"),
    ("sparc", machine(architecture="sparc64"), FACTS, "system", FAIL, "sparc64"),
    ("unknown-cpu", machine(architecture=None), FACTS, "system", FAIL, "unknown"),
    (
        "windows-arm",
        machine(system=System.WINDOWS, architecture="arm64"),
        FACTS,
        "system",
        FAIL,
        "arm64",
    ),
    ("windows", machine(system=System.WINDOWS), FACTS, "windows-4gb", WARN, "4 GB"),
    ("rosetta", machine(rosetta=True, architecture="arm64"), FACTS, "rosetta", FAIL, "Rosetta"),
    ("pages", machine(architecture="arm64"), facts(page_size=65536), "page-size", WARN, "64 KiB"),
    ("wsl1", machine(wsl=1), FACTS, "wsl", WARN, "Linux 1"),
    ("store-noexec", GOOD, place(PlaceRole.STORE, executable=False), "store", FAIL, "noexec"),
    ("home-noexec", GOOD, place(PlaceRole.ENGINE_HOME, executable=False), "engine-home", FAIL, "noexec"),
    ("tmp-noexec", GOOD, place(PlaceRole.TMPDIR, executable=False), "tmpdir", WARN, "noexec"),
    ("home-read-only", GOOD, place(PlaceRole.HOME, writable=False), "home", WARN, "written"),
    ("store-read-only", GOOD, place(PlaceRole.STORE, writable=False), "store", FAIL, "written"),
    ("store-shared", GOOD, place(PlaceRole.STORE, shared_write=True), "store", FAIL, "others may write"),
    ("disk-full", GOOD, place(PlaceRole.STORE, free_bytes=1), "disk", FAIL, "free"),
    ("disk-small", GOOD, place(PlaceRole.STORE, free_bytes=GIB), "disk", WARN, "1.0 GiB"),
    ("no-shell", GOOD, facts(missing_tools=("sh", "dd")), "shell", FAIL, "sh, dd"),
    (
        "xcode",
        machine(system=System.MACOS, architecture="arm64"),
        facts(xcode_tools=False),
        "xcode-tools",
        FAIL,
        "Xcode",
    ),
    ("wine", GOOD, facts(handlers=(BinfmtHandler("DOSWin", "/usr/bin/wine"),)), "binfmt", WARN, "wine"),
    (
        "wsl-interop",
        machine(wsl=2),
        facts(handlers=(BinfmtHandler("WSLInterop-late", "/init"),)),
        "binfmt",
        WARN,
        "/init",
    ),
    ("files", GOOD, facts(open_files=256), "open-files", WARN, "256"),
    (
        "port",
        GOOD,
        facts(ports=(PortFacts("127.0.0.1", 8080, False, owner="nginx (pid 7)"),)),
        "port",
        WARN,
        "nginx",
    ),
    ("port-6", GOOD, facts(ports=(PortFacts("::1", 8080, False),)), "port", WARN, "[::1]:8080"),
    (
        "port-80",
        GOOD,
        facts(ports=(PortFacts("127.0.0.1", 80, False, denied=True),)),
        "port",
        WARN,
        "not ours",
    ),
    ("gpu-nodes", GOOD, facts(gpu_nodes_denied=("/dev/kfd",)), "gpu-access", WARN, "/dev/kfd"),
    (
        "gpu-hidden",
        GOOD,
        facts(gpu_variables=(("CUDA_VISIBLE_DEVICES", ""),)),
        "gpu-variables",
        WARN,
        "empty",
    ),
]


@pytest.mark.parametrize(
    ("name", "where", "found", "check", "outcome", "word"), CASES, ids=[c[0] for c in CASES]
)
def test_what_breaks_a_launch(
    name: str, where: Machine, found: LaunchFacts, check: str, outcome: CheckOutcome, word: str
) -> None:
    checks = diagnose(where, found)
    hits = [c for c in checks if c.name == check and c.outcome is outcome]
    assert len(hits) == 1
    assert word in hits[0].finding
    assert hits[0].consequence
    assert hits[0].fix
    assert bool(failures(checks)) is (outcome is FAIL)


def only(checks: tuple[Check, ...], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


def test_the_home_of_another_user_is_told() -> None:
    checks = diagnose(GOOD, dataclasses.replace(FACTS, foreign_home=("/home/alice", "alice")))
    [check] = [check for check in checks if check.name == "home-owner"]
    assert check.outcome is CheckOutcome.WARN
    assert check.finding == "HOME is /home/alice, which belongs to alice"
    assert "LLAMAFILE_MGR_HOME" in (check.fix or "")


def test_what_helps_where_something_is_missing() -> None:
    loader = facts(missing_tools=("gzip",), ape_loader="/usr/bin/ape")
    assert only(diagnose(GOOD, loader), "shell").outcome is CheckOutcome.PASS
    ape = facts(handlers=(BinfmtHandler("APE", "/usr/bin/ape"),))
    assert only(diagnose(GOOD, ape), "binfmt").outcome is CheckOutcome.PASS
    absent = facts(ports=(PortFacts("::1", 8080, None),))
    assert not [c for c in diagnose(GOOD, absent) if c.name == "port"]
    interop = facts(handlers=(BinfmtHandler("WSLInterop", "/init"),))
    assert "wsl.conf" in (only(diagnose(GOOD, interop), "binfmt").fix or "")


def test_gpus() -> None:
    good = Gpu("nvidia", "RTX 4090", 0, 24 * GIB, 20 * GIB, backend="nvidia")
    idle = Gpu("amd", "RX 7900", memory_total=20 * GIB)
    checks = [c for c in diagnose(machine(gpus=(good, idle)), FACTS) if c.name == "gpu"]
    assert [c.outcome for c in checks] == [CheckOutcome.PASS, CheckOutcome.WARN]
    assert "20.0 GiB free of 24.0 GiB, --gpu nvidia" in checks[0].finding
    assert "ROCm" in (checks[1].fix or "")
    boxed = diagnose(machine(gpus=(idle,), container="docker"), FACTS)
    assert "docker run --device /dev/dri --device /dev/kfd" in (only(boxed, "gpu").fix or "")
    lost = diagnose(machine(gpus=(Gpu("nvidia", "RTX 4090"),), container="docker"), FACTS)
    assert "docker run --gpus all" in (only(lost, "gpu").fix or "")
    odd = diagnose(machine(gpus=(Gpu("other", "Mali"),)), FACTS)
    assert only(odd, "gpu").fix == "no engine has support for it"


def test_a_check_as_plain_values() -> None:
    check = Check("disk", CheckOutcome.FAIL, "f", "c", "x")
    assert asdict(check) == {
        "name": "disk",
        "outcome": "fail",
        "finding": "f",
        "consequence": "c",
        "fix": "x",
    }


def test_other_systems_have_no_checks_of_linux() -> None:
    mac = machine(system=System.MACOS, architecture="arm64")
    names = {check.name for check in diagnose(mac, facts(xcode_tools=True))}
    assert "binfmt" not in names
    assert "cpu-features" not in names
    assert "xcode-tools" in names
    assert "shell" not in {c.name for c in diagnose(machine(system=System.WINDOWS), FACTS)}
