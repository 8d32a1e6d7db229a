"""What two users must agree on to share one service: models, settings, and what an engine sees of GPUs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr import __version__
from llamafile_mgr.catalog import Role
from llamafile_mgr.config import Config
from llamafile_mgr.errors import NotFoundError, UsageError
from llamafile_mgr.machine.vendors import gpu_variables
from llamafile_mgr.paths import Paths
from llamafile_mgr.store import Store

__all__ = ["Choice", "Want", "choose", "for_users", "service_key"]


@dataclass(frozen=True, slots=True)
class Want:
    """One model that a user needs: its role, the name or path that was given, and the file that it means.

    ``argument``: what ``serve`` is told, which is the same from every working directory.
    """

    role: Role
    name: str
    path: Path
    argument: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A service that a user needs. ``port`` None takes any. ``config_file``: of the settings, if named."""

    wants: tuple[Want, ...]
    config: Config
    paths: Paths
    port: int | None = None
    config_file: Path | None = None

    @property
    def key(self) -> str:
        """Return what users who can share one service have in common."""
        return service_key(self.wants, self.config, self.port, os.environ)


def choose(
    embed: str | None,
    generate: str | None,
    config: Config,
    paths: Paths,
    *,
    rerank: str | None = None,
    port: int | None = None,
    config_file: Path | None = None,
) -> Choice:
    """Return the service for these models, or for those of the settings when none is named.

    Raises:
        UsageError: no model is named anywhere.
        NotFoundError: a model is neither in the store nor a file.
    """
    if embed is None and generate is None and rerank is None:
        embed, generate, rerank = config.serve.embed, config.serve.generate, config.serve.rerank
    named = [(Role.EMBED, embed), (Role.GENERATE, generate), (Role.RERANK, rerank)]
    wants = tuple(_want(role, name, paths) for role, name in named if name is not None)
    if not wants:
        raise UsageError(
            "no model was named",
            hint="name one: --embed all-minilm-l6-v2, or set serve.embed in the settings",
        )
    return Choice(wants, config, paths, port, config_file)


def _want(role: Role, name: str, paths: Paths) -> Want:
    try:
        return Want(role, name, Store(paths.store).find(name).path, name)
    except NotFoundError:
        path = Path(name).absolute()
        if not path.is_file():
            raise
        return Want(role, name, path, str(path))


def for_users(config: Config) -> Config:
    """Return the settings of a service for this machine's own scripts: loopback, and no TLS."""
    serve = dataclasses.replace(config.serve, host="127.0.0.1", tls_certificate=None, tls_key=None)
    return dataclasses.replace(config, serve=serve)


def service_key(wants: Sequence[Want], config: Config, port: int | None, environ: Mapping[str, str]) -> str:
    """Return a word for everything that shapes a service; a replaced model file gives another one."""
    serve = dataclasses.asdict(for_users(config).serve)
    for name in ("embed", "generate", "rerank", "port"):
        del serve[name]
    facts = {
        "version": __version__,
        "models": sorted((want.role.value, str(want.path), *_stamp(want.path)) for want in wants),
        "serve": serve,
        "settings": {name: dataclasses.asdict(model) for name, model in config.models.items()},
        "port": port,
        # Two users who show engines different GPUs need different engines.
        "gpus": {name: environ[name] for name in gpu_variables() if name in environ},
    }
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)
