"""What of the system breaks launches: mounts, handlers, missing programs, limits, ports, disk.

``launch_facts`` reads; the dataclasses are what ``checks.py`` judges.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import socket
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from llamafile_mgr.machine import library
from llamafile_mgr.machine.binfmt import BinfmtHandler, read_handlers
from llamafile_mgr.machine.reading import run_tool
from llamafile_mgr.machine.vendors import gpu_files, hiding_variables
from llamafile_mgr.paths import Paths, foreign_home

#: Programs that the script at the head of every llamafile calls.
SHELL_TOOLS = ("sh", "uname", "dd", "gzip", "chmod", "mv", "mkdir")


class PlaceRole(StrEnum):
    """What a directory is for. ``ENGINE_HOME`` is HOME and TMPDIR of the engines that we start."""

    STORE = "store"
    ENGINE_HOME = "engine home"
    TMPDIR = "TMPDIR"
    HOME = "HOME"


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """One directory. What does not exist yet is judged by the nearest directory that does.

    ``executable``: its mount lets programs start. ``shared_write``: others may write into it and it has
    no sticky bit. ``free_bytes``: what we may still write.
    """

    role: PlaceRole
    path: str
    writable: bool | None = None
    executable: bool | None = None
    shared_write: bool | None = None
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PortFacts:
    """One address that we may want. ``free`` is ``None`` where the address does not exist here."""

    host: str
    port: int
    free: bool | None
    denied: bool = False
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class LaunchFacts:
    """What was found. ``memlock_bytes``: -1 for no limit. ``ape_loader``: an ``ape`` on PATH.

    ``xcode_tools``: the command-line tools are installed, macOS alone. ``gpu_nodes_denied``: device files of
    GPUs that exist and that this user may not open. ``gpu_variables``: those set to hide some GPU.
    ``foreign_home``: HOME and its owner, where that is another user.
    """

    places: tuple[PlaceFacts, ...] = ()
    handlers: tuple[BinfmtHandler, ...] = ()
    missing_tools: tuple[str, ...] = ()
    ape_loader: str | None = None
    ports: tuple[PortFacts, ...] = ()
    memlock_bytes: int | None = None
    open_files: int | None = None
    page_size: int | None = None
    xcode_tools: bool | None = None
    gpu_nodes_denied: tuple[str, ...] = ()
    gpu_variables: tuple[tuple[str, str], ...] = ()
    foreign_home: tuple[str, str] | None = None


def launch_facts(paths: Paths, *, port: int = 8080, environ: Mapping[str, str] | None = None) -> LaunchFacts:
    """Return what of this system decides whether engines start. Ports are bound and let go."""
    env = os.environ if environ is None else environ
    posix, search = os.name == "posix", env.get("PATH")
    return LaunchFacts(
        places=_places(paths, env),
        handlers=read_handlers() if sys.platform.startswith("linux") else (),
        missing_tools=tuple(name for name in SHELL_TOOLS if not shutil.which(name, path=search))
        if posix
        else (),
        ape_loader=shutil.which("ape", path=search) if posix else None,
        ports=tuple(probe_port(host, port) for host in ("127.0.0.1", "::1")) if port else (),
        memlock_bytes=_limit("RLIMIT_MEMLOCK"),
        open_files=_limit("RLIMIT_NOFILE"),
        page_size=mmap.PAGESIZE,
        xcode_tools=_xcode_tools() if sys.platform == "darwin" else None,
        gpu_nodes_denied=tuple(
            str(node) for node in gpu_files(Path("/dev")) if not os.access(node, os.R_OK | os.W_OK)
        ),
        foreign_home=foreign_home(env),
        gpu_variables=tuple((name, env[name]) for name in hiding_variables() if name in env),
    )


def inspect_place(role: PlaceRole, path: Path) -> PlaceFacts:
    """Return the facts of one directory, or of the nearest one above it that exists."""
    nearest = next((p for p in (path, *path.parents) if p.is_dir()), None)
    if nearest is None:
        return PlaceFacts(role, str(path))
    try:
        mode: int | None = stat.S_IMODE(nearest.stat().st_mode)
        free: int | None = shutil.disk_usage(nearest).free
    except OSError:
        mode, free = None, None
    shared = mode is not None and os.name == "posix" and bool(mode & 0o022) and not mode & stat.S_ISVTX
    return PlaceFacts(
        role=role,
        path=str(path),
        writable=os.access(nearest, os.W_OK | os.X_OK),
        executable=may_execute(nearest),
        shared_write=shared if nearest == path else None,
        free_bytes=free,
    )


def probe_port(host: str, port: int) -> PortFacts:
    """Return whether we could listen here now, and who does when we could not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if sys.platform == "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                # Without it, connections that ended a minute ago would look like a server.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return PortFacts(host, port, False, owner=library.port_owner(host, port))
        denied = error.errno in (errno.EACCES, errno.EPERM)
        return PortFacts(host, port, False if denied else None, denied=denied)
    return PortFacts(host, port, True)


def _places(paths: Paths, env: Mapping[str, str]) -> tuple[PlaceFacts, ...]:
    wanted: list[tuple[PlaceRole, Path]] = [
        (PlaceRole.STORE, paths.store),
        (PlaceRole.ENGINE_HOME, paths.engine_home),
    ]
    if os.name == "posix":
        wanted.append((PlaceRole.TMPDIR, Path(env.get("TMPDIR") or "/tmp")))  # noqa: S108 - what sh would use
        if env.get("HOME"):
            wanted.append((PlaceRole.HOME, Path(env["HOME"])))
    return tuple(inspect_place(role, path.absolute()) for role, path in wanted)


def may_execute(path: Path) -> bool | None:
    """Tell whether the mount of a directory lets programs start, None where that is not known."""
    if sys.platform.startswith("linux"):
        try:
            return not os.statvfs(path).f_flag & os.ST_NOEXEC
        except OSError:
            return None
    else:
        return None


def _limit(name: str) -> int | None:
    """Return a soft resource limit, -1 for none."""
    if sys.platform == "win32":
        return None
    else:
        import resource

        number = getattr(resource, name, None)
        if number is None:
            return None
        soft = resource.getrlimit(number)[0]
        return -1 if soft == resource.RLIM_INFINITY else soft


def _xcode_tools() -> bool:
    found = run_tool(["/usr/bin/xcode-select", "-p"])
    return bool(found and Path(found.strip()).is_dir())
