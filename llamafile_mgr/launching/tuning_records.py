"""Results of ``tune`` on the disk: one JSON file per machine, model file and engine family.

The file's name holds the machine's fingerprint and the weights' digest, so that a changed machine or file
finds none. A file that cannot be read counts as none: tuning again makes it anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from llamafile_mgr.errors import StoreError
from llamafile_mgr.files import store_errors, write_atomically
from llamafile_mgr.llamafile import Family
from llamafile_mgr.machine import Machine
from llamafile_mgr.paths import Paths, ensure_private_dir
from llamafile_mgr.planner.tuning import MeasuredType, TunedSettings, Variant
from llamafile_mgr.typed_values import FieldError, read_record

_VERSION = 1
_GIB = 1 << 30


def fingerprint_machine(machine: Machine) -> str:
    """Return 16 hex digits of what decides speed: processor, usable cores, GPUs, and memory size class.

    Memory counts as the next power of two in GiB, because systems of one size report slightly different
    totals.
    """
    ceiling = machine.memory.ceiling
    facts = {
        "system": machine.system.value,
        "architecture": machine.architecture,
        "cpu": machine.cpu.model,
        "cores": machine.cpu.usable_cores,
        "gpus": [[gpu.name, gpu.backend, gpu.memory_total] for gpu in machine.gpus],
        "memory_gib_class": None if ceiling is None else max(0, (ceiling - 1) // _GIB).bit_length(),
    }
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def tuned_path(paths: Paths, machine: Machine, digest: str, family: Family) -> Path:
    """Return where the result for this machine, these weights and this family lies."""
    return paths.state / "tuning" / f"{fingerprint_machine(machine)}-{digest[:16]}-{family.value}.json"


def save_tuned(
    paths: Paths, machine: Machine, digest: str, name: str, tuned: TunedSettings, when: datetime
) -> Path:
    """Write a result and return its file; an older one is replaced as a whole.

    Raises:
        StoreError: the state directory cannot be written.
    """
    path = tuned_path(paths, machine, digest, tuned.family)
    ensure_private_dir(path.parent)
    document = {
        "version": _VERSION,
        "model": name,
        "weights": digest,
        "family": tuned.family.value,
        "cpu": machine.cpu.model,
        "measured_at": when.isoformat(timespec="seconds"),
        "gain": round(tuned.gain, 4),
        "variant": dataclasses.asdict(tuned.variant),
        "file_types": [dataclasses.asdict(each) for each in tuned.types],
    }
    with store_errors(path):
        write_atomically(path, json.dumps(document, indent=2).encode("ascii") + b"\n")
    return path


def load_tuned(paths: Paths, machine: Machine, digest: str) -> tuple[TunedSettings, ...]:
    """Return the results for this machine and these weights, at most one per engine family."""
    found = []
    for family in Family:
        path = tuned_path(paths, machine, digest, family)
        tuned = _read(path, digest, family)
        if tuned is not None:
            found.append(tuned)
    return tuple(found)


def _read(path: Path, digest: str, family: Family) -> TunedSettings | None:
    try:
        with store_errors(path):
            document = json.loads(path.read_bytes()) if path.is_file() else None
    except (StoreError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        return None
    if document.get("weights") != digest or document.get("family") != family.value:
        return None
    gain, variant = document.get("gain"), _read_variant(document.get("variant"))
    if variant is None or not isinstance(gain, (int, float)) or isinstance(gain, bool) or not gain >= 1.0:
        return None
    return TunedSettings(family, variant, float(gain), tuple(_read_types(document.get("file_types"))))


def _read_types(values: object) -> Iterator[MeasuredType]:
    """Yield those that can be read; an older result has none."""
    for each in values if isinstance(values, list) else ():
        with contextlib.suppress(FieldError):
            yield read_record(each, MeasuredType, "a file type")


def _read_variant(values: object) -> Variant | None:
    try:
        variant = read_record(values, Variant, "the variant")
    except FieldError:
        return None
    batch = 1 if variant.batch is None else variant.batch
    numbers = (variant.threads, variant.replicas, variant.slots, batch)
    return variant if all(1 <= number <= 1 << 20 for number in numbers) else None
