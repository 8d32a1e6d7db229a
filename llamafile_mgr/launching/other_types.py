"""The file types of a model that can be measured here: those in the store, and those that can be made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llamafile_mgr.catalog import Model, Role
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.errors import IntegrityError, InvalidFileError, NotFoundError
from llamafile_mgr.files import store_errors, temporary_name
from llamafile_mgr.llamafile import inspect_file
from llamafile_mgr.llamafile.identity import identify_weights
from llamafile_mgr.llamafile.requantising import MADE_TYPES, requantise
from llamafile_mgr.machine.detection import detect_machine
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.file_types import file_types
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.store import Store

_HALF = ("F16", "BF16")
#: Larger files take too long to make for a measurement of a minute.
_LARGEST_MADE = 1 << 30


@dataclass(frozen=True, slots=True)
class OtherType:
    """Another type of the weights of a plan. ``name``: of the catalog's file, None where it has none.
    ``path``: the file in the store, None where it has to be made for the measurement."""

    quantisation: str
    name: str | None = None
    path: Path | None = None


def find_other_types(plan: Plan, paths: Paths) -> tuple[OtherType, ...]:
    """Return the types beside that of ``plan``: of an embedding model whose weights lie in a file of their
    own, since nothing else can be exchanged or re-encoded."""
    if plan.role is not Role.EMBED or plan.settings.model != plan.path:
        return ()
    found = {each.quantisation: each for each in _of_catalog(plan.model, Store(paths.store))}
    if plan.quantisation in _HALF and plan.path.stat().st_size <= _LARGEST_MADE:
        for made in MADE_TYPES:
            found.setdefault(made, OtherType(made))
    else:
        found = {kind: each for kind, each in found.items() if each.path is not None}
    return tuple(each for kind, each in found.items() if kind != plan.quantisation)


def _of_catalog(model: Model | None, store: Store) -> Iterator[OtherType]:
    for artifact in file_types(model) if model is not None else ():
        if model is None or artifact.quantisation is None:
            continue
        name, path = f"{model.id}:{artifact.name}", None
        with contextlib.suppress(NotFoundError, IntegrityError):
            path = store.find(name).path
        if path is not None or artifact.quantisation in MADE_TYPES:
            yield OtherType(artifact.quantisation, name, path)


def make_other(plan: Plan, other: OtherType, paths: Paths) -> Path:
    """Make the file of another type and return its path; whoever asked removes it. Blocks for as long.

    Raises:
        UsageError: the extra ``embedded``, which makes it, is not installed.
        InvalidFileError, StoreError: it cannot be made.
    """
    path = temporary_name(Store(paths.store).prepare().temporary)
    try:
        with store_errors(path):
            requantise(plan.path, path, other.quantisation)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def exchange_file(plan: Plan, path: Path) -> Plan:
    """Return ``plan`` with the weights of another file of the model. Blocks. Raises InvalidFileError."""
    weights = inspect_file(path).model
    if weights is None:
        raise InvalidFileError(f"{path} holds no model")
    repack = family_rules(plan.family).repacks(weights.gguf.quantisation, detect_machine().cpu)
    return replace(
        plan,
        path=path,
        settings=replace(plan.settings, model=path, repack=repack),
        quantisation=weights.gguf.quantisation,
        weights_digest=identify_weights(path, weights),
    )
