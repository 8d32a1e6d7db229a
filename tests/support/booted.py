"""A real systemd as the first process of namespaces of its own, on a throw-away copy of this system's files.

Nothing outside can be changed from there: the root is an overlay whose upper layer is in memory, ``/dev``
and ``/run`` are its own, ``/sys`` and ``/proc/sys`` are read-only, and of this system's units the journal
alone is started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Booted", "boot_systemd", "why_not"]

SYSTEMD = Path("/lib/systemd/systemd")
_TOOLS = ("unshare", "nsenter", "mount", "pivot_root", "systemctl")
BOOT_SECONDS = 30.0

_SCRIPT = """\
set -eu
base=$1
mount --make-rprivate /
mount -t tmpfs tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$base/root"
cd "$base/root"
[ "$(stat -f -c %T .)" = overlayfs ]
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
for place in etc/systemd/system etc/systemd/user lib/systemd/system-generators lib/systemd/user-generators; do
    mkdir -p "$place"
    mount -t tmpfs -o mode=755 tmpfs "$place"
done
for place in lib/systemd/system/*.wants lib/systemd/user/*.wants; do
    [ ! -d "$place" ] || mount -t tmpfs -o mode=755 tmpfs "$place"
done
cat >etc/systemd/system/empty.target <<END
[Unit]
Description=Nothing but the journal
DefaultDependencies=no
AllowIsolate=yes
Wants=systemd-journald.service
END
printf '[Unit]\\nDescription=Nothing\\nDefaultDependencies=no\\n' >etc/systemd/system/sysinit.target
cp etc/systemd/system/sysinit.target etc/systemd/system/basic.target
mkdir run/before
pivot_root . run/before
umount -l /run/before
cd /
export container=namespace
exec /lib/systemd/systemd --system --unit=empty.target --log-target=journal --show-status=no
"""


def why_not(*needed: Path) -> str | None:
    """Return why no systemd can be booted here, None when nothing is known against it.

    ``needed``: files that must be seen from inside, which shows the root's own file system alone.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing or not SYSTEMD.exists():
        return f"not installed: {', '.join(missing) or 'systemd'}"
    if any(path.stat().st_dev != Path("/").stat().st_dev for path in needed):
        return "the files under test lie on another file system than the root"
    place = _cgroup_mount()
    if place is None or not os.access(place, os.W_OK):
        return "no writable control groups (version 2)"
    probe = subprocess.run(
        ["unshare", "--mount", "--pid", "--cgroup", "--net", "--fork", "true"],
        capture_output=True,
        check=False,
    )
    return None if probe.returncode == 0 else "namespaces are not allowed"


def _cgroup_mount() -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(place)
    return None


@dataclass(frozen=True)
class Booted:
    """A running systemd. ``pid``: its process as seen from outside."""

    pid: int
    log: Path

    def run(
        self, argv: Sequence[str], environ: Mapping[str, str] | None = None, *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside and return what it said."""
        inside = ["nsenter", f"--target={self.pid}", "-m", "-p", "-u", "-i", "-n", "-C", "--", *argv]
        result = subprocess.run(
            inside, env=environ, capture_output=True, text=True, timeout=55, check=False, cwd="/"
        )
        assert not check or result.returncode == 0, f"{argv}: {result.stdout}{result.stderr}"
        return result

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit."""
        text = self.run(["systemctl", "show", f"--property={','.join(properties)}", unit]).stdout
        return dict(line.split("=", 1) for line in text.splitlines())

    def await_state(self, unit: str, wanted: Mapping[str, str], seconds: float = 40.0) -> dict[str, str]:
        """Wait until a unit has these properties and return them."""
        end = time.monotonic() + seconds
        while (shown := self.show(unit, *wanted)) != dict(wanted):
            assert time.monotonic() < end, f"{unit}: {shown}\n{self.log.read_text()[-3000:]}"
            time.sleep(0.2)
        return shown


@contextlib.contextmanager
def boot_systemd(base: Path, log: Path) -> Iterator[Booted]:
    """Boot, and end everything that runs inside at the end. ``base``: an empty directory."""
    mount = _cgroup_mount()
    assert mount is not None
    group = mount / f"llamafile-mgr-test-{os.getpid()}"
    group.mkdir()
    script = f'echo $$ >"{group}/cgroup.procs"; exec unshare --mount --pid --uts --ipc --net --cgroup --fork '
    script += (
        f"--kill-child sh -c '{_SCRIPT.replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}' boot \"$1\""
    )
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["sh", "-c", script, "start", str(base)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        yield Booted(_await_boot(process, log), log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        _remove_groups(group)


def _await_boot(process: subprocess.Popen[bytes], log: Path) -> int:
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end and process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "systemd":
            booted = Booted(int(children[0]), log)
            if booted.run(["systemctl", "is-system-running"], check=False).stdout.strip() == "running":
                return booted.pid
        time.sleep(0.1)
    raise AssertionError(f"systemd did not boot: {log.read_text()[-3000:]}")


def _remove_groups(group: Path) -> None:
    end = time.monotonic() + 10
    while group.exists() and time.monotonic() < end:
        for place, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(place)
        time.sleep(0.05)
