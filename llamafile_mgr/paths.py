"""Where things lie on this computer: one root per purpose, from platformdirs.

``LLAMAFILE_MGR_HOME`` moves every directory under one root (tests, air-gapped hosts, containers).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.errors import ConfigError, StoreError

HOME_VARIABLE = "LLAMAFILE_MGR_HOME"
_APP = "llamafile-mgr"
_MOST_SECRET_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Paths:
    """The directories of one installation; none of them need exist yet.

    ``config_file``: the TOML file that is read when none is named.
    ``store``: artifacts by content. ``state``: logs and records of engines.
    ``cache``: what can be made again. ``runtime``: sockets and pidfiles of a running ``serve``.
    ``engine_home``: HOME and TMPDIR of the engines, which unpack loaders and GPU modules there.
    """

    config_file: Path
    store: Path
    state: Path
    cache: Path
    runtime: Path

    @property
    def logs(self) -> Path:
        """Return the directory of the engines' logs."""
        return self.state / "logs"

    @property
    def engine_home(self) -> Path:
        """Return the engines' HOME; it must be writable and on a mount that may execute."""
        return self.state / "engines"


def resolve_paths(environ: Mapping[str, str] | None = None) -> Paths:
    """Return the directories for this user, or all under ``LLAMAFILE_MGR_HOME`` when it is set.

    Raises:
        ConfigError: this user has no home directory, or none that it may enter.
    """
    env = os.environ if environ is None else environ
    home = env.get(HOME_VARIABLE)
    if home:
        root = Path(os.path.expanduser(home)).absolute()
        return Paths(
            config_file=root / "config.toml",
            store=root / "store",
            state=root / "state",
            cache=root / "cache",
            runtime=root / "run",
        )
    import platformdirs

    dirs = platformdirs.PlatformDirs(_APP, appauthor=False)
    try:
        store, state = Path(dirs.user_data_dir) / "store", Path(dirs.user_state_dir)
        config_file, cache = Path(dirs.user_config_dir) / "config.toml", Path(dirs.user_cache_dir)
    except RuntimeError as error:
        raise _homeless() from error
    places = (store, state, config_file, cache)
    if not all(place.is_absolute() for place in places):
        raise _homeless()
    foreign = foreign_home(env)
    if foreign is not None and _is_closed(foreign[0], places):
        raise ConfigError(
            f"the home directory {foreign[0]} belongs to {foreign[1]} and is closed to you",
            hint=f"set HOME to yours, or {HOME_VARIABLE} to a directory that you may write to",
        )
    # Without a login session there is no runtime directory, and a shared /tmp is no place for keys.
    has_session = sys.platform != "linux" or bool(env.get("XDG_RUNTIME_DIR"))
    return Paths(
        config_file=config_file,
        store=store,
        state=state,
        cache=cache,
        runtime=Path(dirs.user_runtime_dir) if has_session else state / "run",
    )


def _is_closed(home: str, places: tuple[Path, ...]) -> bool:
    """Tell whether a home directory may not be entered, although something of ours would lie in it."""
    return not os.access(home, os.X_OK) and any(Path(home) in place.parents for place in places)


def _homeless() -> ConfigError:
    return ConfigError(
        "this user has no home directory: HOME is not set to one, and no passwd entry tells of one",
        hint=f"set {HOME_VARIABLE} to a directory that is writable",
    )


def foreign_home(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return HOME and its owner where it is another user's, as after ``sudo``, and something lies there."""
    home = environ.get("HOME", "")
    if os.name != "posix" or environ.get(HOME_VARIABLE) or not home:
        return None
    try:
        owner = os.stat(home).st_uid
    except PermissionError:
        return home, "another user"
    except OSError:
        return None
    if owner == os.geteuid():
        return None
    import pwd

    try:
        return home, pwd.getpwuid(owner).pw_name
    except KeyError:
        return home, f"the user {owner}"


def ensure_private_dir(path: Path) -> Path:
    """Create ``path`` with its parents, readable by its owner only, and return it.

    An existing directory of ours that others may write to is narrowed, since what lies in it is
    executed later.

    Raises:
        StoreError: the directory cannot be made, or is something else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise StoreError(
            f"cannot use the directory {path}: {error.strerror or error}",
            hint=f"make it writable for you, or set {HOME_VARIABLE} to a directory that is",
        ) from error
    return path


def read_secrets(path: Path) -> list[str]:
    """Return the lines of a file of keys; those that hold none, as comments do, are empty.

    Raises:
        ConfigError: it cannot be read, is no text, or others than its owner can read it.
    """
    try:
        # Without waiting: a pipe that nobody writes to would hold the start for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path} is no regular file", hint="write the keys into a file of your own")
            if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
                raise ConfigError(f"others can read the keys in {path}", hint=f"chmod 600 {path}")
            text = stream.read(_MOST_SECRET_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read the keys file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the keys file {path} is not text") from error
    return [line if line.strip() and not line.lstrip().startswith("#") else "" for line in text.splitlines()]
