"""``Machine`` to plain values and back, so that a plan can be made for another computer.

The dataclasses are the schema. Derived figures (``usable_cores``, ``usable``) are written for readers
and ignored when read. ``version`` counts incompatible changes of the form.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from llamafile_mgr.errors import ConfigError, NotFoundError
from llamafile_mgr.machine.hardware import Machine
from llamafile_mgr.machine.vendors import vendor_names

__all__ = ["SNAPSHOT_VERSION", "machine_from_dict", "machine_to_dict", "read_snapshot"]

SNAPSHOT_VERSION = 1
#: Part of a machine -> names of properties that are written beside its fields.
_DERIVED = {"cpu": ("usable_cores",), "memory": ("ceiling", "usable")}
_T = typing.TypeVar("_T")
_HINT = "write a snapshot with: llamafile-mgr doctor --json"


def machine_to_dict(machine: Machine) -> dict[str, object]:
    """Return ``machine`` as dictionaries, lists, texts and numbers."""
    values = dataclasses.asdict(machine)
    for part, names in _DERIVED.items():
        values[part] |= {name: getattr(getattr(machine, part), name) for name in names}
    features = machine.cpu.features
    values["cpu"]["features"] = None if features is None else list(features)
    plain = {"system": machine.system.value, "gpus": list(values["gpus"])}
    return {"version": SNAPSHOT_VERSION, **values, **plain}


def machine_from_dict(data: Mapping[str, object]) -> Machine:
    """Return the machine of a snapshot, every field checked.

    Raises:
        ConfigError: an unknown key, a wrong type, a number that cannot be, another version.
    """
    if not isinstance(data, Mapping):
        raise ConfigError("a machine snapshot must be an object", hint=_HINT)
    version = data.get("version", SNAPSHOT_VERSION)
    if version != SNAPSHOT_VERSION or isinstance(version, bool):
        raise ConfigError(
            f"the machine snapshot has version {version!r}, this program reads {SNAPSHOT_VERSION}", hint=_HINT
        )
    record = _load_record({k: v for k, v in data.items() if k != "version"}, Machine, "machine")
    for gpu in record.gpus:
        if gpu.vendor not in vendor_names():
            words = ", ".join(vendor_names())
            raise ConfigError(f"the vendor of a GPU is {gpu.vendor!r}, not one of {words}", hint=_HINT)
    return record


def read_snapshot(path: Path) -> Machine:
    """Return the machine of a file that ``doctor --json`` wrote, or of a bare snapshot.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it cannot be read, is no JSON or no snapshot.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no machine snapshot {path}", hint=_HINT) from error
    except OSError as error:
        raise ConfigError(f"cannot read the machine snapshot {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no machine snapshot: {error}", hint=_HINT) from error
    if isinstance(data, dict) and isinstance(data.get("machine"), dict):
        data = data["machine"]
    return machine_from_dict(data)


def _load_record(data: object, cls: type[_T], name: str) -> _T:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{name} in the snapshot must be an object", hint=_HINT)
    hints = typing.get_type_hints(cls)
    derived = _DERIVED.get(name.removeprefix("machine."), ())
    unknown = [key for key in data if key not in hints and key not in derived]
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]!r} in {name} of the snapshot", hint=_HINT)
    values = {key: _load(value, hints[key], f"{name}.{key}") for key, value in data.items() if key in hints}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{name} in the snapshot is incomplete: {error}", hint=_HINT) from error


def _load(value: object, hint: object, name: str) -> object:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{name} in the snapshot must be a list", hint=_HINT)
        item = typing.get_args(hint)[0]
        return tuple(_load(element, item, f"{name}[{i}]") for i, element in enumerate(value))
    if not isinstance(hint, type):
        raise TypeError(f"no rule for {hint!r}")
    if dataclasses.is_dataclass(hint):
        return _load_record(value, hint, name)
    return _load_scalar(value, hint, name)


def _load_scalar(value: object, kind: type, name: str) -> object:
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            words = ", ".join(str(member.value) for member in kind)
            raise ConfigError(
                f"{name} in the snapshot is {value!r}, not one of {words}", hint=_HINT
            ) from None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{name} in the snapshot is {value!r}, which has the wrong type", hint=_HINT)
    if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} in the snapshot is {value!r}, which cannot be", hint=_HINT)
    return value
