"""From the wanted models to plans for this machine, by way of the store and the catalog. Blocks on disks.

A recommendation asks for the same machine, engines and files, as a site.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import llamafile_mgr
from llamafile_mgr.catalog import ArtifactKind, Catalog, Model, Pooling, Role, load_catalog
from llamafile_mgr.config import Config, EnginesConfig, ModelConfig
from llamafile_mgr.engines.toolbox import InstalledProgram, InstalledRuntime, Toolbox
from llamafile_mgr.errors import InvalidFileError, NotFoundError, PlanError, UsageError
from llamafile_mgr.launching.programs import find_programs
from llamafile_mgr.launching.side_file_facts import read_side_files
from llamafile_mgr.launching.tuning_records import load_tuned
from llamafile_mgr.launching.wanted import Wanted, WantedModels, locate
from llamafile_mgr.llamafile import FileFacts, inspect_file
from llamafile_mgr.llamafile.identity import identify_weights
from llamafile_mgr.machine import Machine
from llamafile_mgr.machine.detection import detect_machine
from llamafile_mgr.machine.launch import SHELL_TOOLS
from llamafile_mgr.paths import Paths, ensure_private_dir
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.planner.prospects import Site
from llamafile_mgr.store import Store, StoredArtifact

_UNPACKER = "llamafile_mgr.engines.unpacking"


def make_plans(
    wanted: WantedModels, config: Config, paths: Paths, machine: Machine | None = None
) -> tuple[Plan, ...]:
    """Find every wanted model and plan all of them for this machine, or for the one that is given.

    Raises:
        UsageError: nothing was asked for, or a role cannot be told.
        NotFoundError: a model is neither in the store nor a file.
        InvalidFileError: a file is no llamafile or GGUF, or a broken one.
        PlanError: a model cannot run there.
    """
    specs = find_specs(wanted, paths, config.models)
    # Variables of this computer say nothing of another one.
    environ = os.environ if machine is None else {}
    machine = machine or detect_machine()
    tuned = {spec.name: load_tuned(paths, machine, spec.digest) for spec in specs if spec.digest is not None}
    return plan_models(specs, machine, make_toolbox(paths, config.engines), environ, config.models, tuned)


@contextlib.contextmanager
def hold_files(plans: Sequence[Plan], paths: Paths) -> Iterator[None]:
    """Keep the store's files that these plans run from removal while inside.

    Raises:
        NotFoundError: one of them was removed meanwhile.
    """
    store = Store(paths.store)
    stored = {entry.path: entry.digest for entry in store.entries()}
    programs = {Path(word) for plan in plans for word in plan.program}
    used = programs.union(*((plan.path, *plan.features.files) for plan in plans))
    with contextlib.ExitStack() as stack:
        for digest in sorted({stored[path] for path in used if path in stored}):
            stack.enter_context(store.hold(digest))
        yield


def find_specs(
    wanted: WantedModels, paths: Paths, settings: Mapping[str, ModelConfig]
) -> tuple[ModelSpec, ...]:
    """Return what the planner must know of every wanted model, and of the files that its settings name.

    Raises:
        UsageError: nothing was asked for, or a role cannot be told.
        NotFoundError: a model is neither in the store nor a file.
        InvalidFileError: a file is no llamafile or GGUF, or a broken one.
        PlanError: two of them would have the same name.
    """
    store, catalog = Store(paths.store), load_catalog()
    specs: dict[str, ModelSpec] = {}
    for each in wanted.require():
        spec = _find_spec(each, store, catalog)
        told = settings.get(spec.name, ModelConfig())
        spec = replace(
            spec,
            beside=read_side_files(spec.name, told, store),
            stretch=told.yarn.scale if told.yarn else 1.0,
        )
        other = specs.setdefault(spec.name, spec)
        if other is not spec:
            raise PlanError(f"{spec.name} was asked for twice", cause=f"as {other.path} and as {spec.path}")
    return tuple(specs.values())


def _find_spec(wanted: Wanted, store: Store, catalog: Catalog) -> ModelSpec:
    path, stored = locate(wanted.name, store)
    facts = inspect_file(path)
    if stored is None:
        model = _recognise(path, facts, catalog)
        name = model.id if model is not None else path.stem
    else:
        name = wanted.name
        model = catalog.models.get(stored.model_id) if stored.model_id else None
    weights = facts.model
    return ModelSpec(
        name=name,
        role=_decide_role(wanted, model, facts),
        path=path.absolute(),
        facts=facts,
        model=model,
        digest=identify_weights(path, weights) if weights is not None else None,
    )


def _recognise(path: Path, facts: FileFacts, catalog: Catalog) -> Model | None:
    """Return the catalog's entry for a file that was not pulled: by its name and the width of its vectors."""
    weights = facts.model
    if weights is None:
        return None
    for name in (weights.gguf.name, path.stem):
        model = catalog.models.get((name or "").lower())
        if model is not None and model.dimensions in (None, weights.gguf.embedding_length):
            return model
    return None


def _decide_role(wanted: Wanted, model: Model | None, facts: FileFacts) -> Role:
    if wanted.role is not None:
        if model is not None and model.role is not wanted.role:
            raise UsageError(
                f"{model.id} is a model to {model.role.value}, not to {wanted.role.value}",
                hint=f"llamafile-mgr serve --{model.role.value} {wanted.name}",
            )
        return wanted.role
    if model is not None:
        return model.role
    return role_of_file(facts)


def role_of_file(facts: FileFacts) -> Role:
    """Return what the model in a file is for, as far as the file tells."""
    weights = facts.model
    if weights is None or (weights.gguf.causal is not False and weights.gguf.pooling is None):
        return Role.GENERATE
    return Role.RERANK if weights.gguf.pooling == Pooling.RANK.value else Role.EMBED


def make_toolbox(paths: Paths, engines: EnginesConfig) -> Toolbox:
    """Return what this installation can run engines with; makes the engines' HOME and TMPDIR.

    Raises:
        ConfigError: a program that the settings name cannot be used.
    """
    toolbox = find_toolbox(Store(paths.store), paths, find_programs(engines, paths.cache).require())
    for directory in (toolbox.home, toolbox.temporary):
        ensure_private_dir(directory)
    return toolbox


def find_toolbox(store: Store, paths: Paths, programs: tuple[InstalledProgram, ...]) -> Toolbox:
    """Return what this installation can run engines with; ``programs`` of the system are known already."""
    runtimes = (entry for entry in store.entries() if entry.kind is ArtifactKind.RUNTIME)
    ape = shutil.which("ape")
    return Toolbox(
        runtimes=tuple(_describe_runtime(entry) for entry in runtimes),
        python=Path(sys.executable) if importlib.util.find_spec("xllamacpp") is not None else None,
        package_root=Path(llamafile_mgr.__file__).parent.parent,
        home=paths.engine_home,
        temporary=paths.engine_home / "tmp",
        shell=all(shutil.which(name) is not None for name in SHELL_TOOLS),
        ape=Path(ape) if ape is not None else None,
        programs=programs,
        unpacker=(sys.executable, "-m", _UNPACKER),
    )


def _describe_runtime(entry: StoredArtifact) -> InstalledRuntime:
    try:
        facts = inspect_file(entry.path)
    except (InvalidFileError, NotFoundError):
        return InstalledRuntime(entry.name, entry.path, entry.engine_version)
    version = entry.engine_version or facts.engine_version
    return InstalledRuntime(entry.name, entry.path, version, facts.gpu_modules, facts.size, facts.arguments)


def find_site(
    catalog: Catalog, paths: Paths, machine: Machine | None = None, engines: EnginesConfig | None = None
) -> Site:
    """Return this machine, or the one that is given, with the engines and models of this store.

    ``engines``: the settings of engines, None for their defaults. Raises ConfigError as ``make_toolbox``.
    """
    store = Store(paths.store)
    stored: dict[tuple[str, str], FileFacts] = {}
    for entry in store.entries():
        if entry.model_id is not None and entry.artifact is not None:
            # What cannot be read is not better than what was not pulled: the catalog tells of it.
            with contextlib.suppress(InvalidFileError, NotFoundError):
                stored[entry.model_id, entry.artifact] = inspect_file(entry.path)
    newest = next(iter(catalog.runtimes.values()))
    runtime = InstalledRuntime(newest.name, Path(newest.name), newest.engine_version, size=newest.size or 0)
    # Variables of this computer say nothing of another one.
    environ = os.environ if machine is None else {}
    programs = find_programs(engines or EnginesConfig(), paths.cache).require()
    toolbox = find_toolbox(store, paths, programs)
    return Site(machine or detect_machine(), toolbox, environ, stored, runtime)
