"""What two users must agree on to share one service: models, settings, and what an engine sees of GPUs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.config import Config
from llamafile_mgr.launching.wanted import WantedModels, locate
from llamafile_mgr.machine.vendors import gpu_variables
from llamafile_mgr.paths import Paths
from llamafile_mgr.store import Store


@dataclass(frozen=True, slots=True)
class ServiceChoice:
    """A service that a user needs.

    ``wanted``: its models, named alike from every working directory. ``files``: what the names mean, in the
    same order. ``key``: what users who can share one service have in common. ``port`` None takes any.
    ``config_file``: of the settings, if named.
    """

    wanted: WantedModels
    files: tuple[Path, ...]
    key: str
    paths: Paths
    port: int | None = None
    config_file: Path | None = None

    def find_defaults(self, served: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
        """Return role -> name of our first model of it, None unless all of ours are ``served``, as ``status``
        tells."""
        found: dict[str, str] = {}
        for each, file in zip(self.wanted.models, self.files, strict=True):
            role = each.role and each.role.value
            model = next(
                (m for m in served if m.get("path") == str(file) and role in (None, m.get("role"))), None
            )
            if model is None:
                return None
            found.setdefault(str(model["role"]), str(model["model"]))
        return found


def choose(
    wanted: WantedModels,
    config: Config,
    paths: Paths,
    *,
    port: int | None = None,
    config_file: Path | None = None,
) -> ServiceChoice:
    """Return the service for these models.

    Raises:
        UsageError: there are none.
        NotFoundError: a model is neither in the store nor a file.
    """
    store = Store(paths.store)
    wanted = wanted.anchored(store)
    files = tuple(locate(each.name, store)[0] for each in wanted.require())
    key = service_key(wanted, files, config, port, os.environ)
    return ServiceChoice(wanted, files, key, paths, port, config_file)


def for_users(config: Config) -> Config:
    """Return the settings of a service for this machine's own scripts: loopback, no TLS, the models told."""
    serve = dataclasses.replace(
        config.serve, host="127.0.0.1", tls_certificate=None, tls_key=None, embed=(), generate=(), rerank=()
    )
    return dataclasses.replace(config, serve=serve)


def service_key(
    wanted: WantedModels, files: Sequence[Path], config: Config, port: int | None, environ: Mapping[str, str]
) -> str:
    """Return a word for everything that shapes a service; a replaced model file gives another one."""
    roles = [each.role and each.role.value for each in wanted.models]
    serve = dataclasses.asdict(for_users(config).serve)
    del serve["port"]
    facts = {
        "version": __version__,
        "models": [(role, str(file), *_stamp(file)) for role, file in zip(roles, files, strict=True)],
        "serve": serve,
        "engines": dataclasses.asdict(config.engines),
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
