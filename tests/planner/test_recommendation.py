"""Recommendations over machines and uses, with the reasons for and against."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafile_mgr.catalog import Catalog, load_catalog
from llamafile_mgr.errors import PlanError
from llamafile_mgr.machine import Cpu, Gpu, Machine, System
from llamafile_mgr.machine.hardware import Memory
from llamafile_mgr.planner.budget import memory_budgets
from llamafile_mgr.planner.options import flops_per_token
from llamafile_mgr.planner.prospects import Site, catalog_facts
from llamafile_mgr.planner.recommendation import recommend as recommend_for
from llamafile_mgr.planner.verdicts import DocLength, ModelOutcome, ModelVerdict, Recommendation, Use
from tests.planner import samples

GIB = 1024**3
GB = 10**9
CATALOG = load_catalog()
SFR, E5, MXBAI, MINILM = (
    "sfr-embedding-mistral",
    "e5-mistral-7b-instruct",
    "mxbai-embed-large-v1",
    "all-minilm-l6-v2",
)


def computer(memory: float, cores: int, *gpus: Gpu, system: System = System.LINUX) -> Machine:
    return Machine(
        system=system,
        architecture="x86_64",
        cpu=Cpu(physical_cores=cores, logical_cpus=2 * cores, efficiency_cores=0),
        memory=Memory(total=int(memory * GIB), available=int(memory * GIB)),
        gpus=gpus,
    )


def nvidia(memory: float) -> Gpu:
    return Gpu("nvidia", "RTX", 0, int(memory * GIB), int(memory * GIB), backend="nvidia")


APPLE = Gpu("apple", "Apple M3 Max", 0, unified=True, backend="apple")
LAPTOP, SERVER = computer(8, 4), computer(256, 96)
PI = computer(4, 4)
WORKSTATION = computer(64, 16, nvidia(24))


def recommend(machine: Machine, catalog: Catalog, use: Use) -> Recommendation:
    """Ask for a computer on which nothing is installed and nothing was pulled."""
    return recommend_for(Site(machine, samples.NOTHING, {}, {}, samples.RUNTIME), catalog, use)


def of(answer: Recommendation, model: str) -> ModelVerdict:
    (found,) = [verdict for verdict in answer.verdicts if verdict.model == model]
    return found


@pytest.mark.parametrize(
    ("machine", "use", "embedding"),
    [
        (WORKSTATION, Use(), SFR),
        (WORKSTATION, Use(commercial=True), E5),
        (SERVER, Use(), SFR),
        (SERVER, Use(commercial=True), E5),
        (LAPTOP, Use(), MXBAI),  # the large ones fit, but take longer than a day
        (LAPTOP, Use(corpus_size=500, commercial=True), E5),
        (PI, Use(), MXBAI),
        (computer(1, 2), Use(corpus_size=10), MINILM),
        (computer(64, 16, APPLE), Use(corpus_size=10**6), SFR),
        (SERVER, Use(corpus_size=10**6), MXBAI),
        (SERVER, Use(corpus_size=10**9), MINILM),  # all take too long: the fastest
        (LAPTOP, Use(max_memory=GB), MXBAI),
        (LAPTOP, Use(max_memory=GB // 2), MINILM),
        (LAPTOP, Use(doc_length=DocLength.LONG, corpus_size=100), SFR),
        (LAPTOP, Use(doc_length=DocLength.LONG), MXBAI),  # cut into pieces rather than wait for days
        (computer(64, 8, Gpu("intel", "UHD", unified=True, backend="vulkan")), Use(), MXBAI),
    ],
)
def test_the_embedding_model(machine: Machine, use: Use, embedding: str) -> None:
    answer = recommend(machine, CATALOG, use)
    assert answer.embedding is not None
    assert answer.embedding.model == embedding
    assert answer.complete
    assert answer.generation is None


@pytest.mark.parametrize(
    ("machine", "use", "embedding", "generation"),
    [
        (WORKSTATION, Use(with_generation=True), SFR, "gpt-oss-20b"),
        (LAPTOP, Use(with_generation=True), MXBAI, "mistral-7b-instruct-v0-3"),
        (PI, Use(with_generation=True), MXBAI, "qwen3-5-0-8b"),
        (computer(2, 2), Use(with_generation=True), MINILM, "llama-3-2-1b-instruct"),
        (computer(16, 8, APPLE), Use(with_generation=True), SFR, "qwen3-5-9b"),
    ],
)
def test_both_models_fit_at_once(machine: Machine, use: Use, embedding: str, generation: str) -> None:
    answer = recommend(machine, CATALOG, use)
    assert answer.embedding is not None
    assert answer.generation is not None
    assert (answer.embedding.model, answer.generation.model) == (embedding, generation)


def test_reasons_follow_the_post() -> None:
    answer = recommend(LAPTOP, CATALOG, Use(commercial=True, doc_length=DocLength.LONG))
    assert answer.embedding is not None
    said = " | ".join(answer.embedding.reasons)
    for word in (
        "mean task rank 14.08",
        "Apache-2.0",
        "1.25 GB are for fp32",
        "pieces of at most 512",
        "hours",
    ):
        assert word in said
    assert of(answer, SFR).outcome is ModelOutcome.REJECTED
    assert "CC-BY-NC-4.0" in of(answer, SFR).reasons[0]
    assert of(answer, E5).outcome is ModelOutcome.POSSIBLE
    assert "more than a day" in of(answer, E5).reasons[0]
    assert "ranks higher" in of(answer, MINILM).reasons[0]
    assert "best small" in said
    assert "not among the post's ten best" in " ".join(of(answer, MINILM).reasons)


def test_reasons_of_those_that_do_not_fit() -> None:
    answer = recommend(computer(3, 8), CATALOG, Use(with_generation=True))
    reason = of(answer, E5).reasons[0]
    assert "its smallest file, q5_k_m, beside the smallest generation model, llama-3-2-1b-instruct," in reason
    assert "does not fit: with its smallest settings e5-mistral-7b-instruct needs 5." in reason
    assert "are left of this machine's 3.22 GB" in reason
    assert "needs" in of(answer, "gpt-oss-20b").reasons[0]


def test_a_shorter_document_limit_loses_where_both_are_quick() -> None:
    answer = recommend(WORKSTATION, CATALOG, Use(doc_length=DocLength.LONG))
    assert of(answer, MXBAI).reasons[0].startswith("documents have to be cut to 512 tokens")


def test_a_licence_without_commercial_use_is_said_of_what_is_chosen() -> None:
    answer = recommend(WORKSTATION, CATALOG, Use())
    assert answer.embedding is not None
    assert any("no commercial use" in reason for reason in answer.embedding.reasons)


def test_slow_generation_is_said_to_be_slow() -> None:
    answer = recommend(computer(24, 2), CATALOG, Use(with_generation=True))
    assert "slower than reading" in of(answer, "gpt-oss-20b").reasons[0]
    assert of(answer, "gpt-oss-20b").outcome is ModelOutcome.REJECTED


def test_weights_need_a_runtime_and_windows_needs_one_above_4_gb() -> None:
    small = recommend(computer(1, 2), CATALOG, Use(corpus_size=10))
    assert small.embedding is not None
    assert any("runtime" in reason for reason in small.embedding.reasons)
    windows = recommend(
        dataclasses.replace(WORKSTATION, system=System.WINDOWS), CATALOG, Use(commercial=True)
    )
    assert windows.embedding is not None
    assert any("4 GB" in reason and "-m" in reason for reason in windows.embedding.reasons)


def test_nothing_fits() -> None:
    answer = recommend(LAPTOP, CATALOG, Use(max_memory=1000, with_generation=True))
    assert answer.embedding is None
    assert not answer.complete
    assert all(verdict.outcome is not ModelOutcome.CHOSEN for verdict in answer.verdicts)
    assert all(verdict.reasons for verdict in answer.verdicts)


def test_without_a_generation_model_nothing_stands_beside_one() -> None:
    alone = Catalog({MXBAI: CATALOG.models[MXBAI]}, CATALOG.runtimes)
    answer = recommend(LAPTOP, alone, Use(with_generation=True))
    assert not answer.complete
    assert "no generation model" in of(answer, MXBAI).reasons[0]


def test_unknown_memory_has_to_be_given() -> None:
    blind = dataclasses.replace(LAPTOP, memory=Memory())
    with pytest.raises(PlanError) as caught:
        recommend(blind, CATALOG, Use())
    assert "--max-memory" in (caught.value.hint or "")
    assert recommend(blind, CATALOG, Use(max_memory=2 * GB)).complete


def test_it_is_json() -> None:
    answer = recommend(WORKSTATION, CATALOG, Use(with_generation=True))
    data = json.loads(json.dumps(answer.to_dict()))
    assert data["embedding"]["model"] == SFR
    assert data["generation"]["outcome"] == "chosen"
    assert data["use"]["doc_length"] == "paragraph"
    assert len(data["verdicts"]) == len(CATALOG.models)
    assert data["memory"][0]["backend"] == "nvidia"


MACHINES = st.builds(
    computer,
    st.floats(0.1, 300),
    st.integers(1, 128),
    st.one_of(
        st.just(APPLE),
        st.floats(0, 80).map(nvidia),
        st.just(Gpu("amd", "RX", memory_total=16 * GIB)),
    ),
)
USES = st.builds(
    Use,
    commercial=st.booleans(),
    max_memory=st.none() | st.integers(1, 100 * GB),
    doc_length=st.sampled_from(DocLength),
    corpus_size=st.integers(1, 10**9),
    with_generation=st.booleans(),
)


@settings(max_examples=200)
@given(MACHINES, USES)
def test_what_is_chosen_is_allowed_and_fits(machine: Machine, use: Use) -> None:
    answer = recommend(machine, CATALOG, use)
    chosen = [verdict for verdict in answer.verdicts if verdict.outcome is ModelOutcome.CHOSEN]
    assert len(chosen) <= 1 + use.with_generation
    total = sum(verdict.memory or 0 for verdict in chosen)
    if use.max_memory is not None:
        assert total <= use.max_memory
    if all(verdict.place == answer.budgets[-1].name for verdict in chosen):
        assert total <= answer.budgets[-1].room
    if use.commercial:
        assert all(CATALOG.models[verdict.model].commercial for verdict in chosen)
    if chosen and use.with_generation:
        assert answer.complete
    names = [verdict.model for verdict in answer.verdicts]
    assert len(names) == len(set(names))
    assert all(verdict.reasons and all(verdict.reasons) for verdict in answer.verdicts)


@settings(max_examples=50)
@given(MACHINES, USES)
def test_more_memory_never_loses_a_recommendation(machine: Machine, use: Use) -> None:
    use = dataclasses.replace(use, max_memory=None)
    before = recommend(machine, CATALOG, use)
    memory = dataclasses.replace(
        machine.memory, total=4 * (machine.memory.total or 0), available=4 * (machine.memory.available or 0)
    )
    after = recommend(dataclasses.replace(machine, memory=memory), CATALOG, use)
    assert after.complete or not before.complete


def test_memories_of_machines() -> None:
    found, _ = memory_budgets(WORKSTATION, {})
    assert [(b.name, b.accelerated, b.backend) for b in found] == [
        ("RTX", True, "nvidia"),
        ("main memory", False, None),
    ]
    assert found[0].room == 24 * GIB
    unified, _ = memory_budgets(computer(32, 8, APPLE), {})
    assert [(b.name, b.accelerated) for b in unified] == [("Apple M3 Max (unified memory)", True)]
    twins, _ = memory_budgets(computer(32, 8, nvidia(12), dataclasses.replace(nvidia(24), index=1)), {})
    assert [b.name for b in twins] == ["RTX #1", "RTX #0", "main memory"]
    unusable, notes = memory_budgets(
        computer(32, 8, Gpu("amd", "RX"), Gpu("nvidia", "T4", backend="nvidia")), {}
    )
    assert [b.name for b in unusable] == ["main memory"]
    assert len(notes) == 2
    hidden, notes = memory_budgets(WORKSTATION, {"CUDA_VISIBLE_DEVICES": ""})
    assert [b.name for b in hidden] == ["main memory"]
    assert "hides" in notes[0]


def test_work_of_a_token() -> None:
    minilm = CATALOG.models[MINILM]
    assert flops_per_token(minilm) == pytest.approx(2 * 10.7e6, rel=0.05)
    assert flops_per_token(CATALOG.models[E5]) == pytest.approx(2 * 7.11e9, rel=0.01)


def test_a_file_of_unknown_size_has_no_facts() -> None:
    minilm = CATALOG.models[MINILM]
    assert catalog_facts(minilm, minilm.artifact("gguf-f16")) is None
