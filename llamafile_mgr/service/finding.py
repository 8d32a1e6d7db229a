"""Filling a definition in from this machine: interpreter, directories, user, GPUs. Changes nothing."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import llamafile_mgr
from llamafile_mgr.config_reading import CONFIG_VARIABLE
from llamafile_mgr.errors import ServiceError
from llamafile_mgr.machine.vendors import engine_files, gpu_variables
from llamafile_mgr.paths import HOME_VARIABLE, Paths, resolve_paths
from llamafile_mgr.service.definition import Definition, Handle, Scope, ServiceSpec, check_name
from llamafile_mgr.service.launchd import Launchd
from llamafile_mgr.service.systemd import Systemd
from llamafile_mgr.service.task_scheduler import TaskScheduler

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Variables of the installing shell that change where files lie; those of GPUs are kept too.
_KEPT = (
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
_PREFIX = "LLAMAFILE_MGR_"
_DROPPED = frozenset({CONFIG_VARIABLE, "LLAMAFILE_MGR_DEBUG", "LLAMAFILE_MGR_PYTHON"})
#: Beyond the draining: engines end, caches are written.
_STOP_EXTRA_SECONDS = 30


@dataclass(frozen=True, slots=True)
class ServiceHost:
    """Who runs the service. ``user``: for a system service; ``user_id`` is -1 where there are none."""

    scope: Scope
    home: Path
    paths: Paths
    user: str | None
    user_id: int
    group_id: int


def find_target(scope: Scope, run_as: str | None, paths: Paths, environ: Mapping[str, str]) -> ServiceHost:
    """Return who is to run it; ``paths`` are those of the user who asks.

    Raises:
        ServiceError: a system service without a user to run it, or one that does not exist; a user without a
            home directory.
    """
    if scope is Scope.USER or sys.platform == "win32":
        if run_as:
            raise ServiceError(
                "a user's own service runs as that user", hint="drop --run-as, or add --system"
            )
        ids = (os.getuid(), os.getgid()) if hasattr(os, "getuid") else (-1, -1)
        try:
            home = Path.home()
        except RuntimeError as error:
            raise ServiceError("a user's own service needs a home directory", hint="set HOME") from error
        return ServiceHost(scope, home, paths, None, *ids)
    import pwd

    name = run_as or environ.get("SUDO_USER")
    if not name:
        raise ServiceError(
            "whose models is the system service to serve?",
            cause="it runs as a user, and should not be root",
            hint="name one: --run-as USER",
        )
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise ServiceError(f"there is no user {name}") from error
    home = Path(entry.pw_dir)
    found = resolve_paths(environ) if environ.get(HOME_VARIABLE) else _default_paths(home)
    return ServiceHost(scope, home, found, name, entry.pw_uid, entry.pw_gid)


def _default_paths(home: Path) -> Paths:
    """Return what ``resolve_paths`` gives another user: neither XDG variables nor a session."""
    if sys.platform == "darwin":
        support = home / "Library/Application Support/llamafile-mgr"
        caches = home / "Library/Caches"
        return Paths(
            support / "config.toml",
            support / "store",
            support,
            caches / "llamafile-mgr",
            caches / "TemporaryItems/llamafile-mgr",
        )
    state = home / ".local/state/llamafile-mgr"
    return Paths(
        home / ".config/llamafile-mgr/config.toml",
        home / ".local/share/llamafile-mgr/store",
        state,
        home / ".cache/llamafile-mgr",
        state / "run",
    )


def find_handle(name: str, target: ServiceHost, environ: Mapping[str, str]) -> Handle:
    """Return the service of this name under this system's manager. Raises ConfigError for a bad name."""
    manager: type[Handle] = Systemd
    if sys.platform == "darwin":
        manager, of_user = Launchd, target.home / "Library/LaunchAgents"
        of_system = Path("/Library/LaunchDaemons")
    elif sys.platform == "win32":
        manager, of_user = TaskScheduler, target.paths.state / "service"
        of_system = of_user
    else:
        of_user = Path(environ.get("XDG_CONFIG_HOME") or target.home / ".config") / "systemd/user"
        of_system = Path("/etc/systemd/system")
    directory = of_user if target.scope is Scope.USER else of_system
    return manager(check_name(name), target.scope, directory, target.user_id, _log_of(name, target))


def _log_of(name: str, target: ServiceHost) -> str:
    return str(target.paths.logs / f"service-{name}.log")


def find_definition(request: ServiceSpec, target: ServiceHost, environ: Mapping[str, str]) -> Definition:
    """Return the whole definition. Starts the interpreter once, to see whether it finds the package alone.

    Raises:
        ConfigError: a name or path cannot stand in a service definition.
        ServiceError: the user who is to run it cannot reach the interpreter, the package or a model.
    """
    paths, python = target.paths, Path(sys.executable)
    package = Path(llamafile_mgr.__file__).parent
    writable = _outermost((paths.store, paths.state, paths.cache, paths.runtime))
    config = (request.config_file,) if request.config_file else ()
    # A virtual environment only links to an interpreter, which lies somewhere else with its library.
    code = (python, python.resolve(), Path(sys.prefix), Path(sys.base_prefix), package, package.resolve())
    used = (*code, *config, *request.needed)
    readable = _outermost(
        (paths.config_file, *used, *(path.resolve() for path in (*config, *request.needed)))
    )
    if target.user is not None:
        for path in used:
            _check_reach(path, target)
    settings = ("--config", str(request.config_file)) if request.config_file else ()
    return Definition(
        name=request.name,
        scope=target.scope,
        argv=(str(python), "-m", "llamafile_mgr", *settings, "serve", *request.arguments),
        environment=_environment(target, package, environ),
        directory=str(paths.state),
        writable=tuple(map(str, writable)),
        readable=tuple(map(str, readable)),
        addresses=tuple(
            f"[{host}]:{request.port}" if ":" in host else f"{host}:{request.port}"
            for host in request.hosts
            if _exists_here(host)
        ),
        user=target.user,
        devices=tuple(map(str, engine_files(Path("/dev")))),
        on_demand=request.on_demand,
        stop_seconds=math.ceil(request.drain_seconds) + _STOP_EXTRA_SECONDS,
        log=_log_of(request.name, target),
    )


def _exists_here(host: str) -> bool:
    """Return whether a socket can have this address; a machine without IPv6 would refuse the socket unit."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _environment(target: ServiceHost, package: Path, environ: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in environ.items() if k.startswith(_PREFIX) and k not in _DROPPED}
    if environ.get(HOME_VARIABLE):
        kept[HOME_VARIABLE] = os.path.abspath(os.path.expanduser(environ[HOME_VARIABLE]))
    own = target.user is None
    if own:
        kept |= {name: environ[name] for name in (*_KEPT, *gpu_variables()) if environ.get(name)}
    kept |= {
        "HOME": str(target.home),
        "PATH": _clean_path(environ.get("PATH", "")) if own else _SYSTEM_PATH,
        "TMPDIR": str(target.paths.engine_home / "tmp"),
        # `python -m` would take modules from the directory that it starts in.
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if not _finds_package():
        kept["PYTHONPATH"] = str(package.parent)
    return kept


def _clean_path(path: str) -> str:
    """Return the absolute directories of a PATH, each once; the system's own when there are none."""
    found = dict.fromkeys(part for part in path.split(os.pathsep) if Path(part).is_absolute())
    return os.pathsep.join(found) or (_SYSTEM_PATH if os.name == "posix" else "")


def _finds_package() -> bool:
    """Return whether our interpreter imports the package from anywhere, as an installed one."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    code = "import importlib.util as u, sys; sys.path[:] = [p for p in sys.path if p]; sys.exit(u.find_spec('llamafile_mgr') is None)"  # noqa: E501
    argv = [sys.executable, "-c", code]
    return subprocess.run(argv, env=environ, cwd=Path(sys.executable).anchor, check=False).returncode == 0


def _outermost(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return each path that lies in none of the others, in order."""
    unique = list(dict.fromkeys(paths))
    return tuple(path for path in unique if not any(other in path.parents for other in unique))


def _check_reach(path: Path, target: ServiceHost) -> None:
    """Raise ServiceError when a directory on the way to ``path``, or to its target, is closed to the user."""
    for way in dict.fromkeys((path, path.resolve())):
        for directory in reversed(way.parents):
            try:
                status = directory.stat()
            except OSError:
                return  # what does not exist is reported by who needs it
            bit = 0o100 if status.st_uid == target.user_id else 0o010
            if status.st_uid != target.user_id and status.st_gid != target.group_id:
                bit = 0o001
            if target.user_id != 0 and not status.st_mode & bit:
                raise ServiceError(
                    f"the user {target.user} cannot reach {path}",
                    cause=f"{directory} is closed to others",
                    hint="install llamafile-mgr where every user can read it, or choose another --run-as",
                )
