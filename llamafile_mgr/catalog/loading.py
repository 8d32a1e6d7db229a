"""Reading ``models.toml`` into typed entries; every unknown key or wrong type is an error."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import re
import tomllib
import types
import typing
from enum import Enum

from llamafile_mgr.catalog.catalog_entries import Artifact, Catalog, Model
from llamafile_mgr.errors import ConfigError

__all__ = ["load_catalog", "parse_catalog"]

_ID = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = typing.TypeVar("_T")


@functools.cache
def load_catalog() -> Catalog:
    """Return the catalog of this package, read once per process."""
    text = (importlib.resources.files(__package__) / "models.toml").read_text(encoding="utf-8")
    return parse_catalog(text)


def parse_catalog(text: str) -> Catalog:
    """Parse a catalog in the form of ``models.toml``.

    Raises:
        ConfigError: broken TOML, an unknown key, a wrong type, a malformed id or digest.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the catalog is not valid TOML: {error}") from error
    models = {model_id: _read_model(model_id, entry) for model_id, entry in table.get("models", {}).items()}
    runtimes = [_read_artifact(entry, "runtimes") for entry in table.get("runtimes", [])]
    return Catalog(
        models=types.MappingProxyType(models),
        runtimes=types.MappingProxyType({runtime.name: runtime for runtime in runtimes}),
    )


def _read_model(model_id: str, entry: dict[str, object]) -> Model:
    _check_id(model_id)
    raw = entry.pop("artifacts", None)
    if not isinstance(raw, list) or not raw:
        raise ConfigError(f"catalog: {model_id} has no artifacts")
    artifacts = tuple(_read_artifact(item, model_id) for item in raw)
    if len({artifact.name for artifact in artifacts}) != len(artifacts):
        raise ConfigError(f"catalog: two artifacts of {model_id} share a name")
    return _build(Model, {**entry, "id": model_id, "artifacts": artifacts}, model_id)


def _read_artifact(entry: dict[str, object], owner: str) -> Artifact:
    artifact = _build(Artifact, entry, owner)
    _check_id(artifact.name)
    if artifact.sha256 is not None and not _SHA256.fullmatch(artifact.sha256):
        raise ConfigError(f"catalog: the sha256 of {owner} {artifact.name} is not 64 hex digits")
    return artifact


def _check_id(text: str) -> None:
    if not _ID.fullmatch(text):
        raise ConfigError(f"catalog: {text!r} is no id (lower-case letters, digits, dot, dash, underscore)")


@functools.cache
def _hints(cls: type) -> dict[str, object]:
    return typing.get_type_hints(cls)


def _build(cls: type[_T], entry: dict[str, object], owner: str) -> _T:
    hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable
    values: dict[str, object] = {}
    for key, value in entry.items():
        if key not in hints:
            raise ConfigError(f"catalog: unknown key {key} in {owner}")
        values[key] = _coerce(value, hints[key], f"{owner}.{key}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"catalog: {owner} is incomplete: {error}") from error


def _coerce(value: object, hint: object, name: str) -> object:
    if isinstance(hint, types.UnionType):
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    kind = typing.get_origin(hint) or hint
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _build(kind, value, name)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            words = ", ".join(str(member.value) for member in kind)
            raise ConfigError(f"catalog: {name} is {value!r}, not one of {words}") from None
    if not isinstance(kind, type) or type(value) is not kind:
        raise ConfigError(f"catalog: {name} is {value!r}, which has the wrong type")
    return value
