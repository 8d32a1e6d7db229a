"""Checks of the operating system: what lets engines start, and what stops them."""

from __future__ import annotations

from collections.abc import Iterator

from llamafile_mgr.machine.binfmt import BinfmtHandler
from llamafile_mgr.machine.findings import Check, failed, gib, passed, warned
from llamafile_mgr.machine.hardware import Machine, System
from llamafile_mgr.machine.launch import LaunchFacts, PlaceFacts, PlaceRole

_MIB, _GIB = 1024**2, 1024**3
_LEAST_DISK, _COMFORTABLE_DISK = 200 * _MIB, 6 * _GIB
_LEAST_FILES = 1024


def check_system(machine: Machine, facts: LaunchFacts) -> Iterator[Check]:
    """Judge system and architecture."""
    finding = (
        f"{machine.system_version or machine.system.value}, {machine.architecture or 'unknown processor'}"
    )
    if machine.architecture not in ("x86_64", "arm64"):
        yield failed(
            "system",
            finding,
            "llamafiles run on x86_64 and arm64 only",
            "use a 64-bit x86 or Arm computer with a 64-bit system",
        )
    elif machine.system is System.WINDOWS and machine.architecture == "arm64":
        yield failed(
            "system",
            finding,
            "llamafiles do not run on Windows for Arm",
            "run them inside WSL, as Linux programs",
        )
    else:
        yield passed("system", finding)
    if machine.rosetta:
        yield failed(
            "rosetta",
            "this Python runs translated by Rosetta",
            "engines would be translated too: no Metal, and AVX may be missing, which they need",
            "reinstall with a Python for Apple silicon (python.org, or Homebrew in /opt/homebrew)",
        )
    if machine.system is System.WINDOWS:
        yield warned(
            "windows-4gb",
            "Windows does not start programs above 4 GB",
            "llamafiles above 4 GB cannot be started as they are",
            "nothing to do: they run on a bare runtime with -m; pull one, for example llamafile-0.10.5",
        )
    if facts.page_size is not None and facts.page_size > 16384:
        yield warned(
            "page-size",
            f"memory pages of {facts.page_size // 1024} KiB",
            "llamafiles crash at start on Arm kernels with 64 KiB pages",
            "boot a kernel with 4 KiB pages (on Ubuntu: linux-generic instead of linux-generic-64k)",
        )


def check_surroundings(machine: Machine, facts: LaunchFacts) -> Iterator[Check]:
    """Judge containers and WSL."""
    if machine.container:
        yield passed("container", f"inside a container ({machine.container}); its limits are respected")
    if machine.wsl == 1:
        yield warned(
            "wsl",
            "Windows Subsystem for Linux 1",
            "it has no GPUs and emulates Linux in part; memory mapping of large files is slow",
            "convert the distribution: wsl --set-version NAME 2",
        )
    elif machine.wsl == 2:
        yield passed("wsl", "Windows Subsystem for Linux 2")


def check_places(machine: Machine, facts: LaunchFacts) -> Iterator[Check]:
    """Judge the directories that engines start from and unpack into."""
    if facts.foreign_home is not None:
        home, owner = facts.foreign_home
        yield warned(
            "home-owner",
            f"HOME is {home}, which belongs to {owner}",
            "models, settings and logs are looked for there, and what is made there is not its owner's",
            "sudo -H, or set HOME to your own; LLAMAFILE_MGR_HOME moves everything of ours",
        )
    for place in facts.places:
        yield _check_place(place)
    store = next((place for place in facts.places if place.role is PlaceRole.STORE), None)
    if store is not None and store.free_bytes is not None:
        yield _disk(store.path, store.free_bytes)


def _check_place(place: PlaceFacts) -> Check:
    name = place.role.value.replace(" ", "-").lower()
    ours = place.role in (PlaceRole.STORE, PlaceRole.ENGINE_HOME)
    judge, move = warned, f"set {place.role.value} elsewhere"
    if ours:
        judge, move = failed, "set LLAMAFILE_MGR_HOME to a directory on a disk of yours"
    if place.writable is False:
        consequence = (
            "nothing can be stored or unpacked there" if ours else "programs started by hand may fail"
        )
        return judge(name, f"{place.path} cannot be written", consequence, move)
    if place.executable is False:
        consequence = (
            "the kernel refuses to start llamafiles and their loader from there"
            if ours
            else "llamafiles started by hand fail with 'Permission denied' (126); ours use the engine home"
        )
        return judge(name, f"{place.path} is on a mount with noexec", consequence, move)
    if ours and place.shared_write:
        consequence = "another user could replace a file that is executed as you"
        return failed(name, f"others may write to {place.path}", consequence, f"chmod go-w {place.path}")
    return passed(name, f"{place.path}: programs may start")


def _disk(path: str, free: int) -> Check:
    finding = f"{gib(free)} free for {path}"
    advice = (
        "free some room, remove models (llamafile-mgr rm, prune), or move the store with LLAMAFILE_MGR_HOME"
    )
    if free < _LEAST_DISK:
        return failed("disk", finding, "not even the smallest model can be pulled", advice)
    if free < _COMFORTABLE_DISK:
        return warned(
            "disk", finding, "the large models do not fit (e5-mistral-7b-instruct has 5.2 GB)", advice
        )
    return passed("disk", finding)


def check_programs(machine: Machine, facts: LaunchFacts) -> Iterator[Check]:
    """Judge the programs that start a llamafile."""
    if machine.system is System.WINDOWS:
        return
    if not facts.missing_tools:
        yield passed("shell", "sh and the programs that llamafiles unpack themselves with are there")
    elif facts.ape_loader:
        yield passed(
            "shell",
            f"no {', '.join(facts.missing_tools)}, but the loader {facts.ape_loader} starts llamafiles",
        )
    else:
        yield failed(
            "shell",
            f"missing: {', '.join(facts.missing_tools)}",
            "llamafiles cannot unpack their loader and do not start",
            "install them (coreutils, gzip, a POSIX shell), or put the ape loader on PATH",
        )
    if facts.xcode_tools is False and machine.architecture == "arm64":
        yield failed(
            "xcode-tools",
            "the Xcode command-line tools are missing",
            "llamafiles compile their loader and the Metal module with cc at the first start, and fail",
            "xcode-select --install",
        )
    elif facts.xcode_tools:
        yield passed("xcode-tools", "the Xcode command-line tools are installed")


def check_handlers(machine: Machine, facts: LaunchFacts) -> Iterator[Check]:
    """Judge programs that claim llamafiles as theirs."""
    wrong = [handler for handler in facts.handlers if not handler.ape]
    if not wrong:
        if machine.system is System.LINUX:
            yield passed("binfmt", "no other program claims files that begin like a llamafile")
        return
    # The kernel asks the handler that was registered last, and the files do not tell which one that is.
    names = ", ".join(f"{handler.name} ({handler.interpreter})" for handler in wrong)
    yield warned(
        "binfmt",
        f"the kernel hands such files to {names}",
        "llamafiles started bare land in Wine, Mono or Windows; ours are started with sh, untouched",
        _binfmt_fix(wrong),
    )


def _binfmt_fix(wrong: list[BinfmtHandler]) -> str:
    if any(handler.name.startswith("WSLInterop") for handler in wrong):
        return (
            "none needed for our engines; else set [interop] enabled=false in /etc/wsl.conf and restart WSL"
        )
    return (
        "none needed for our engines; else install /usr/bin/ape and register "
        "':APE:M::MZqFpD::/usr/bin/ape:' in /proc/sys/fs/binfmt_misc/register"
    )


def check_limits(machine: Machine, facts: LaunchFacts) -> Iterator[Check]:
    """Judge resource limits."""
    if facts.memlock_bytes is not None:
        free = facts.memlock_bytes == -1
        size = "no limit" if free else f"{facts.memlock_bytes // 1024} KiB"
        note = "" if free else "; weights cannot be locked in memory, and plans do not ask for it"
        yield passed("memlock", f"locked memory: {size}{note}")
    if facts.open_files is not None and 0 <= facts.open_files < _LEAST_FILES:
        yield warned(
            "open-files",
            f"at most {facts.open_files} open files",
            "many clients at once will be refused",
            "ulimit -n 4096, or LimitNOFILE= in the service",
        )


def check_ports(machine: Machine, facts: LaunchFacts) -> Iterator[Check]:
    """Judge the proxy's addresses."""
    for port in facts.ports:
        where = f"[{port.host}]:{port.port}" if ":" in port.host else f"{port.host}:{port.port}"
        if port.free:
            yield passed("port", f"{where} is free")
        elif port.denied:
            yield warned(
                "port",
                f"{where} is not ours to take",
                "serve cannot listen there",
                "choose a port above 1023: --port",
            )
        elif port.free is False:
            owner = f" by {port.owner}" if port.owner else ""
            other = ":" in port.host
            yield warned(
                "port",
                f"{where} is taken{owner}",
                "clients that say localhost may reach that program instead of ours"
                if other
                else "serve cannot listen there, unless that is a serve of ours already",
                "stop it, or choose another port: serve --port",
            )
