"""Reading ``models.toml`` into typed entries; every unknown key or wrong type is an error."""

from __future__ import annotations

import functools
import importlib.resources
import re
import tomllib
import types
import typing

from llamafile_mgr.catalog.catalog_entries import Artifact, Catalog, Model
from llamafile_mgr.errors import ConfigError
from llamafile_mgr.typed_values import FieldError, read_record

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
    runtimes = map(_read_runtime, table.get("runtimes", []))
    return Catalog(
        models=types.MappingProxyType(models),
        runtimes=types.MappingProxyType({runtime.name: runtime for runtime in runtimes}),
    )


def _read_model(model_id: str, entry: dict[str, object]) -> Model:
    _check_id(model_id)
    if not entry.get("artifacts"):
        raise ConfigError(f"catalog: {model_id} has no artifacts")
    model = _read(Model, {**entry, "id": model_id}, model_id)
    for artifact in model.artifacts:
        _check_artifact(artifact, model_id)
    if len({artifact.name for artifact in model.artifacts}) != len(model.artifacts):
        raise ConfigError(f"catalog: two artifacts of {model_id} share a name")
    return model


def _read_runtime(entry: object) -> Artifact:
    runtime = _read(Artifact, entry, "runtimes")
    _check_artifact(runtime, "runtimes")
    return runtime


def _check_artifact(artifact: Artifact, owner: str) -> None:
    _check_id(artifact.name)
    for digest in (artifact.sha256, artifact.converted_sha256):
        if digest is not None and not _SHA256.fullmatch(digest):
            raise ConfigError(f"catalog: a sha256 of {owner} {artifact.name} is not 64 hex digits")


def _check_id(text: str) -> None:
    if not _ID.fullmatch(text):
        raise ConfigError(f"catalog: {text!r} is no id (lower-case letters, digits, dot, dash, underscore)")


def _read(cls: type[_T], entry: object, owner: str) -> _T:
    try:
        return read_record(entry, cls, owner)
    except FieldError as error:
        raise ConfigError(f"catalog: {error}") from error
