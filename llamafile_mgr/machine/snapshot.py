"""``Machine`` to plain values and back, so that a plan can be made for another computer.

The dataclasses are the schema. Derived figures (``usable_cores``, ``usable``) are written for readers
and ignored when read. ``version`` counts incompatible changes of the form.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from llamafile_mgr.errors import ConfigError, NotFoundError
from llamafile_mgr.machine.hardware import Machine
from llamafile_mgr.machine.vendors import vendor_names
from llamafile_mgr.typed_values import FieldError, read_record

SNAPSHOT_VERSION = 1
#: Part of a machine -> names of properties that are written beside its fields.
_DERIVED = {"cpu": ("usable_cores",), "memory": ("ceiling", "usable")}
_HINT = "write a snapshot with: llamafile-mgr doctor --json"


def machine_to_dict(machine: Machine) -> dict[str, object]:
    """Return ``machine`` as dictionaries, lists, texts and numbers, derived figures beside the read ones."""
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
    values = {key: _drop_derived(key, value) for key, value in data.items() if key != "version"}
    try:
        record = read_record(values, Machine, "machine")
    except FieldError as error:
        raise ConfigError(f"{error.name} in the snapshot {error.problem}", hint=_HINT) from error
    for gpu in record.gpus:
        if gpu.vendor not in vendor_names():
            words = ", ".join(vendor_names())
            raise ConfigError(f"the vendor of a GPU is {gpu.vendor!r}, not one of {words}", hint=_HINT)
    return record


def _drop_derived(part: str, value: object) -> object:
    if part not in _DERIVED or not isinstance(value, Mapping):
        return value
    return {key: each for key, each in value.items() if key not in _DERIVED[part]}


def read_snapshot(path: Path) -> Machine:
    """Return the machine of a file that ``doctor --json`` wrote, or of a bare snapshot.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it cannot be read, is no JSON or no snapshot.
    """
    try:
        data = json.loads(path.read_bytes())  # in whatever Unicode a shell wrote it
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no machine snapshot {path}", hint=_HINT) from error
    except OSError as error:
        raise ConfigError(f"cannot read the machine snapshot {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no machine snapshot: {error}", hint=_HINT) from error
    if isinstance(data, dict) and isinstance(data.get("machine"), dict):
        data = data["machine"]
    return machine_from_dict(data)
