"""What ``plan`` would make of models of the catalog, before their files are here. Pure.

The planner reads files; of a file that was not pulled the catalog's figures stand in its place. So the
memory that a recommendation counts is the memory that the plan will ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llamafile_mgr.catalog import Artifact, Model
from llamafile_mgr.engines.families import Family, family_of_version
from llamafile_mgr.engines.toolbox import InstalledRuntime, Toolbox
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import FileFacts, FileKind, GgufFacts
from llamafile_mgr.llamafile.inspection import Weights
from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.asked_features import AskedFeatures
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.planner.selection import select_engine

StoredFiles = Mapping[tuple[str, str], FileFacts]


@dataclass(frozen=True, slots=True)
class Prospect:
    """One file of a model with the plan for it."""

    model: Model
    artifact: Artifact
    plan: Plan

    @property
    def memory(self) -> int:
        """Return the bytes that it takes, wherever they lie."""
        return self.plan.memory.everywhere if self.plan.memory is not None else 0


@dataclass(frozen=True, slots=True)
class Site:
    """Where models would run: the machine, and what is installed there.

    ``stored``: what is in the files that were pulled, by model and artifact. ``runtime``: the one that would
    be pulled for a file that nothing installed runs. ``limit``: bytes that all models together may take.
    """

    machine: Machine
    toolbox: Toolbox
    environ: Mapping[str, str]
    stored: StoredFiles
    runtime: InstalledRuntime
    limit: int | None = None

    def facts(self, model: Model, artifact: Artifact) -> FileFacts | None:
        """Return what is, or will be, in this file; None when its size is unknown."""
        return self.stored.get((model.id, artifact.name)) or catalog_facts(model, artifact)

    def plan(self, *files: tuple[Model, Artifact]) -> tuple[Prospect, ...] | str:
        """Return what each file becomes when all run at once, or why they do not fit into what is free."""
        specs, toolbox = [], self.toolbox
        try:
            for model, artifact in files:
                facts = self.facts(model, artifact)
                if facts is None:
                    return "the catalog does not know the size of its file"
                spec = ModelSpec(model.id, model.role, facts.path, facts, model)
                specs.append(spec)
                toolbox = self._equip(spec, toolbox)
            plans = plan_models(tuple(specs), self.machine, toolbox, self.environ, {}, limit=self.limit)
        except PlanError as error:
            # What the figures are made of is for plan to show.
            return (error.cause or error.message).partition("; ")[0]
        crowded = next((plan.warnings[-1] for plan in plans if plan.crowded), None)
        if crowded is not None:
            return crowded
        return tuple(Prospect(*file, plan) for file, plan in zip(files, plans, strict=True))

    def _equip(self, spec: ModelSpec, toolbox: Toolbox) -> Toolbox:
        """Return the toolbox, with the runtime that would be pulled where nothing in it runs this file."""
        pooling = spec.model.pooling if spec.model is not None else None
        try:
            select_engine(spec, self.machine, toolbox, pooling, AskedFeatures())
        except PlanError:
            return replace(toolbox, runtimes=(*toolbox.runtimes, self.runtime))
        return toolbox


def catalog_facts(model: Model, artifact: Artifact) -> FileFacts | None:
    """Return what the catalog tells of this file, None when it does not know its size."""
    size = artifact.converted_size or artifact.size or artifact.approximate_size
    if size is None:
        return None
    if artifact.engine_family is not None:
        family: Family | None = Family(artifact.engine_family)
    else:
        family = family_of_version(artifact.engine_version or "")
    network = GgufFacts(
        version=3,
        architecture=model.architecture,
        quantisation=artifact.quantisation,
        tokenizer_model=model.tokenizer,
    )
    if model.shape is not None:
        network = replace(network, value_length=model.shape.key_length, **asdict(model.shape))
    name = artifact.source.rsplit("/", 1)[-1].partition("@")[0]
    return FileFacts(
        path=Path(name),
        size=size,
        kind=FileKind(artifact.kind.value),
        engine_version=artifact.engine_version,
        family=family,
        weights=(Weights(name, 0, size, network),),
    )
