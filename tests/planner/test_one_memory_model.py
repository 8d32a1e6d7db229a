"""``recommend`` and ``plan`` agree on what fits, for every model of the catalog at every size of memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafile_mgr.catalog import Artifact, Catalog, Model, Role, load_catalog
from llamafile_mgr.engines.toolbox import Toolbox
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import FileFacts
from llamafile_mgr.machine import Cpu, Gpu, Machine, System
from llamafile_mgr.machine.hardware import Memory
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.planner.prospects import Site, catalog_facts
from llamafile_mgr.planner.recommendation import recommend
from llamafile_mgr.planner.verdicts import ModelOutcome, Use
from tests.planner import samples

GB, MIB = 10**9, 1 << 20
CATALOG = load_catalog()
SFR = CATALOG.models["sfr-embedding-mistral"]
Q4 = SFR.artifact("gguf-q4_k_m")
FILES = [
    (model, artifact)
    for model in CATALOG.models.values()
    for artifact in model.artifacts
    if catalog_facts(model, artifact) is not None
]
#: What may be installed: the embedded engine, a runtime, or both.
TOOLBOXES = [samples.EMBEDDED_ONLY, samples.with_runtimes(samples.RUNTIME)]


def computer(free: int, *gpus: Gpu) -> Machine:
    """A computer of 64 GB of which so much is free."""
    return Machine(
        System.LINUX,
        architecture="x86_64",
        cpu=Cpu(physical_cores=64, logical_cpus=128, features=("avx", "avx2")),
        memory=Memory(total=64 * GB, available=free),
        gpus=gpus,
    )


def site(machine: Machine, toolbox: Toolbox, stored: dict[tuple[str, str], FileFacts] | None = None) -> Site:
    """Where models would run, with these files pulled."""
    return Site(machine, toolbox, {}, stored or {}, samples.RUNTIME)


def only(model: Model, artifact: Artifact) -> Catalog:
    """A catalog with this file alone."""
    return Catalog({model.id: dataclasses.replace(model, artifacts=(artifact,))}, CATALOG.runtimes)


def planned(subjects: list[ModelSpec], machine: Machine, toolbox: Toolbox) -> tuple[Plan, ...] | None:
    """Return the plans where they fit into what is free now, as ``plan`` prints them without a warning."""
    try:
        plans = plan_models(tuple(subjects), machine, toolbox, {}, {})
    except PlanError:
        return None
    crowded = any("are free now" in warning for plan in plans for warning in plan.warnings)
    return None if crowded else plans


def subject_of(model: Model, artifact: Artifact) -> ModelSpec:
    """The model as the catalog's figures describe its file."""
    facts = catalog_facts(model, artifact)
    assert facts is not None
    return ModelSpec(model.id, model.role, facts.path, facts, model)


def gpu(free: int, *, unified: bool = False) -> Gpu:
    """A card with so much free, or one that shares main memory."""
    name = "apple" if unified else "nvidia"
    return Gpu(name, "GPU", 0, None if unified else free, None if unified else free, unified, backend=name)


@pytest.mark.parametrize(
    ("model", "artifact"), FILES, ids=[f"{model.id}:{artifact.name}" for model, artifact in FILES]
)
@settings(max_examples=40, deadline=None)
@given(
    free=st.integers(0, 40 * GB),
    gpus=st.lists(st.builds(gpu, st.integers(0, 24 * GB), unified=st.booleans()), max_size=1),
    toolbox=st.sampled_from(TOOLBOXES),
)
def test_it_fits_exactly_when_plan_says_so(
    model: Model, artifact: Artifact, free: int, gpus: list[Gpu], toolbox: Toolbox
) -> None:
    machine = computer(free, *gpus)
    expected = planned([subject_of(model, artifact)], machine, toolbox)
    found = site(machine, toolbox).plan((model, artifact))
    assert isinstance(found, str) == (expected is None), found
    if expected is not None:
        assert not isinstance(found, str)
        assert found[0].plan.memory == expected[0].memory
    if model.role is Role.EMBED:
        (verdict,) = recommend(site(machine, toolbox), only(model, artifact), Use()).verdicts
        assert (verdict.outcome is ModelOutcome.CHOSEN) == (expected is not None)


@pytest.mark.parametrize("toolbox", TOOLBOXES)
def test_the_border_of_what_fits_is_one(toolbox: Toolbox) -> None:
    """Where they once differed, between 4.85 and 6.0 GB, every 4 MiB."""
    subject = dataclasses.replace(samples.sfr_gguf, model=SFR)
    seen = set()
    for free in range(4_300_000_000, 6_300_000_000, 4 * MIB):
        machine = computer(free)
        fits = planned([subject], machine, toolbox)
        (verdict,) = recommend(site(machine, toolbox), only(SFR, Q4), Use()).verdicts
        assert (verdict.outcome is ModelOutcome.CHOSEN) == (fits is not None), free
        seen.add(verdict.outcome)
        if fits is not None:
            memory = fits[0].memory
            assert memory is not None
            assert verdict.memory == memory.joint, free
    assert seen == {ModelOutcome.CHOSEN, ModelOutcome.REJECTED}


@pytest.mark.parametrize(("toolbox", "needed"), list(zip(TOOLBOXES, (5.74, 6.03), strict=True)))
def test_the_figure_of_sfr_is_that_of_its_header(toolbox: Toolbox, needed: float) -> None:
    machine = dataclasses.replace(computer(40 * GB), cpu=samples.DESKTOP_32GB.cpu)
    plans = planned([dataclasses.replace(samples.sfr_gguf, model=SFR)], machine, toolbox)
    assert plans is not None
    assert plans[0].memory is not None
    (verdict,) = recommend(site(machine, toolbox), only(SFR, Q4), Use()).verdicts
    assert verdict.memory == plans[0].memory.joint == pytest.approx(needed * GB, abs=5e6)


def test_what_was_pulled_counts_as_it_is() -> None:
    pulled = dataclasses.replace(samples.sfr_gguf.facts, weights=samples.qwen_embed.facts.weights)
    machine = dataclasses.replace(computer(40 * GB), cpu=samples.DESKTOP_32GB.cpu)
    stored = site(machine, samples.EMBEDDED_ONLY, {(SFR.id, Q4.name): pulled})
    (verdict,) = recommend(stored, only(SFR, Q4), Use()).verdicts
    subject = ModelSpec(SFR.id, Role.EMBED, Path("/f"), pulled, SFR)
    plans = planned([subject], machine, samples.EMBEDDED_ONLY)
    assert plans is not None
    assert plans[0].memory is not None
    assert verdict.memory == plans[0].memory.joint < 3 * GB


@settings(max_examples=60, deadline=None)
@given(
    writer=st.sampled_from([file for file in FILES if file[0].role is Role.GENERATE]),
    embedder=st.sampled_from([file for file in FILES if file[0].role is Role.EMBED]),
    free=st.integers(0, 50 * GB),
    toolbox=st.sampled_from(TOOLBOXES),
)
def test_two_models_fit_exactly_when_plan_says_so(
    writer: tuple[Model, Artifact], embedder: tuple[Model, Artifact], free: int, toolbox: Toolbox
) -> None:
    machine = computer(free)
    expected = planned([subject_of(*embedder), subject_of(*writer)], machine, toolbox)
    assert isinstance(site(machine, toolbox).plan(embedder, writer), str) == (expected is None)


@given(st.integers(1, 30 * GB))
def test_a_limit_is_kept_and_made_use_of(limit: int) -> None:
    found = dataclasses.replace(site(computer(60 * GB), samples.EMBEDDED_ONLY), limit=limit).plan((SFR, Q4))
    smallest = 4_800_000_000
    assert isinstance(found, str) or found[0].memory <= limit
    assert not isinstance(found, str) or limit < smallest, found
