"""Which models were asked for: one list out of settings, flags and arguments, any number of each role."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ServeConfig
from llamafile_mgr.errors import NotFoundError, UsageError
from llamafile_mgr.store import Store, StoredArtifact

#: Role -> the models that a flag or a caller names for it; None, or no entry, leaves it to the settings.
ToldRoles = Mapping[Role, Sequence[str] | None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that was asked for by name or path; ``role`` None leaves it to the catalog or the file."""

    name: str
    role: Role | None = None


@dataclass(frozen=True, slots=True)
class WantedModels:
    """The models to run. The first of a role is its default: it answers calls that name no model."""

    models: tuple[Wanted, ...] = ()

    def require(self) -> tuple[Wanted, ...]:
        """Return the models. Raises UsageError when there are none."""
        if not self.models:
            raise UsageError(
                "no model was named",
                hint="name one: --embed all-minilm-l6-v2, or set serve.embed in the settings",
            )
        return self.models

    def anchored(self, store: Store) -> WantedModels:
        """Return the same models under names that mean the same from every directory."""
        return WantedModels(tuple(Wanted(anchor_name(each.name, store), each.role) for each in self.models))

    def arguments(self) -> list[str]:
        """Return the arguments with which ``serve`` runs exactly these, where the settings name none."""
        plain = [each.name for each in self.models if each.role is None]
        flags = [(f"--{each.role.value}", each.name) for each in self.models if each.role is not None]
        return [*plain, *(word for flag in flags for word in flag)]


def read_wanted(
    settings: ServeConfig, models: Sequence[str] = (), roles: ToldRoles | None = None
) -> WantedModels:
    """Return what was asked for: ``models`` of whatever role, then those of ``roles``, each once.

    What is told for a role takes the place of the settings' models of that role; an empty name stands for
    none. With ``models`` the settings' models stand aside altogether.

    Raises:
        UsageError: one model is named for two roles.
    """
    wanted: dict[str, Role | None] = dict.fromkeys(models)
    for role in Role:
        told = (roles or {}).get(role)
        configured: Sequence[str] = () if models else getattr(settings, role.value)
        for name in filter(None, configured if told is None else told):
            other = wanted.get(name)
            if other not in (None, role):
                raise UsageError(f"{name} is named to {other.value} and to {role.value}")
            wanted[name] = role
    return WantedModels(tuple(Wanted(name, role) for name, role in wanted.items()))


def read_embedder(settings: ServeConfig, name: str | None) -> WantedModels:
    """Return one model to embed with: the named one, else the first of the settings. Raises UsageError."""
    told = None if name is None else (name,)
    wanted = read_wanted(settings, roles={Role.EMBED: told, Role.GENERATE: (), Role.RERANK: ()})
    return WantedModels(wanted.require()[:1])


def anchor_name(name: str, store: Store) -> str:
    """Return the whole path of a file, and any other name, known or not, as it is."""
    try:
        path, stored = locate(name, store)
    except NotFoundError:
        return name
    return str(path) if stored is None else name


def locate(name: str, store: Store) -> tuple[Path, StoredArtifact | None]:
    """Return the file that a name of the store or a path means, and what the store knows of it.

    Raises:
        NotFoundError: it is neither in the store nor a file.
        IntegrityError: it lies in the store and is damaged.
    """
    try:
        stored = store.find(name)
    except NotFoundError as error:
        path = Path(os.path.expanduser(name)).absolute()
        like_path = os.sep in name or name.endswith((".llamafile", ".gguf", ".exe", ".encoderfile"))
        # What no file can be called is no error of the system here.
        if os.path.isfile(path) or (like_path and os.path.exists(path)):
            return path, None
        if like_path:
            raise NotFoundError(f"no such file: {name}", hint=error.hint) from None
        raise
    return stored.path, stored
