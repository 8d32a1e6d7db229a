"""Engines that would fail: the table, and what is done instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.embedding.space import fingerprint_space
from llamafile_mgr.engines.arguments import ArgumentSyntax, parse_arguments
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.known_bad import Candidate
from llamafile_mgr.engines.toolbox import Toolbox
from llamafile_mgr.errors import PlanError
from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from tests.planner import samples

GOOD = Candidate((0, 8, 4), Role.EMBED, Pooling.CLS, samples.DESKTOP_32GB, samples.GB)
NEW = replace(GOOD, version=(0, 10, 5), uses_gpu=True)


@pytest.mark.parametrize(
    ("family", "candidate", "name"),
    [
        (Family.V1, GOOD, None),
        (Family.V1, replace(GOOD, version=(0, 8, 2)), None),
        (Family.V1, replace(GOOD, version=(0, 8, 12)), None),
        (Family.V1, replace(GOOD, version=(0, 8, 13)), "embeddings refused"),
        (Family.V1, replace(GOOD, version=(0, 9, 3)), "embeddings refused"),
        (Family.V1, replace(GOOD, version=(0, 9, 3), role=Role.GENERATE), None),
        (Family.V1, replace(GOOD, version=(0, 8, 1)), "embeddings wrong"),
        (Family.V1, replace(GOOD, version=(0, 6, 2)), "embeddings wrong"),
        (Family.V1, replace(GOOD, word_pieces=True), "WordPiece"),
        (Family.V1, replace(GOOD, word_pieces=True, version=None), "WordPiece"),
        (Family.V1, replace(GOOD, word_pieces=True, role=Role.GENERATE), None),
        (Family.V10, replace(NEW, word_pieces=True), None),
        (Family.V1, replace(GOOD, ends_sequences=True), "automatic end of sequence"),
        (Family.V1, replace(GOOD, ends_sequences=True, version=(0, 8, 0), role=Role.GENERATE), None),
        (Family.V2, replace(GOOD, version=(0, 9, 3)), "fixed pooling"),
        (Family.V2, replace(GOOD, version=(0, 9, 3), pooling=Pooling.LAST), None),
        (Family.V10, NEW, None),
        (Family.V10, replace(NEW, ends_sequences=True), None),
        (Family.V10, replace(NEW, version=(0, 10, 6)), None),
        (Family.V10, replace(NEW, version=(0, 10, 6), uses_gpu=False), "slow decoding on processors"),
        (Family.V10, replace(NEW, uses_gpu=False), None),
        (Family.V10, replace(NEW, arguments=("-m", "x.gguf", "--nobrowser")), "flags that went"),
        (Family.V10, replace(NEW, arguments=("--no-mmap",)), None),
        (Family.V10, replace(NEW, arguments=("--no-mmap",), version=(0, 10, 7)), "memory flags that went"),
        (Family.V10, replace(NEW, models=2, borrowed=True), "several models"),
        (Family.V10, replace(NEW, models=2), None),
        (Family.V10, replace(NEW, machine=samples.NO_AVX), "avx"),
        (Family.V1, replace(GOOD, version=(0, 6, 2), role=Role.GENERATE, machine=samples.NO_AVX), None),
        (Family.V1, replace(GOOD, machine=samples.RISCV), "processor"),
        (Family.V10, replace(NEW, machine=samples.WINDOWS, program_bytes=5 * samples.GB), "windows 4 GB"),
        (Family.V10, replace(NEW, machine=samples.WINDOWS, program_bytes=4 * samples.GB), None),
        (Family.V10, replace(NEW, program_bytes=5 * samples.GB), None),
        (Family.V10, replace(NEW, machine=samples.WINDOWS_ARM), "windows on arm"),
        (Family.V10, replace(NEW, machine=samples.WINDOWS_GPU, version=(0, 10, 0)), "no GPU on Windows"),
        (Family.V1, replace(GOOD, version=None), None),
        (Family.V1, replace(GOOD, version=None, machine=samples.RISCV), "processor"),
        (Family.EMBEDDED, replace(GOOD, version=None, machine=samples.NO_AVX), None),
        (
            Family.V1,
            replace(
                GOOD,
                version=(0, 6, 2),
                role=Role.GENERATE,
                machine=replace(samples.NO_AVX, cpu=replace(samples.NO_AVX.cpu, features=("sse3",))),
            ),
            "ssse3",
        ),
    ],
)
def test_the_rows(family: Family, candidate: Candidate, name: str | None) -> None:
    found = family_rules(family).find_known_bad(candidate)
    assert (found.name if found else None) == name


def test_every_row_is_met_by_some_candidate_and_explains_itself() -> None:
    for family in Family:
        rows = family_rules(family).known_bad
        assert len({row.name for row in rows}) == len(rows) > 0
        for row in rows:
            assert "{" not in row.explain((0, 9, 3))
            assert row.explain(None)


def engine_of(subject: ModelSpec, machine: Machine, toolbox: object) -> tuple[Family, str]:
    (plan,) = plan_models((subject,), machine, toolbox, {}, {})  # type: ignore[arg-type]
    return plan.family, plan.reasons[0].why


def test_llamafiler_serves_last_token_models_when_nothing_else_can() -> None:
    e5 = samples.subject("e5-mistral-7b-instruct", version="0.9.3", header=samples.MISTRAL)
    family, why = engine_of(e5, samples.DESKTOP_32GB, samples.NOTHING)
    assert family is Family.V2
    assert why == "its engine 0.9.3 refuses embeddings; its llamafiler can do it"
    (plan,) = plan_models((e5,), samples.DESKTOP_32GB, samples.NOTHING, {}, {})
    assert plan.warnings == (
        "llamafiler has no API keys: every user and program of this machine can ask its engine",
    )
    assert engine_of(e5, samples.DESKTOP_32GB, samples.EMBEDDED_ONLY)[0] is Family.EMBEDDED
    with pytest.raises(PlanError):
        engine_of(samples.subject(version="0.9.3"), samples.DESKTOP_32GB, samples.NOTHING)


POSTS_SMALL = samples.subject(header=samples.WORD_PIECES)
WRONG_TOKENS = "its engine 0.8.4 cuts about 4 % of English texts into wrong tokens with BERT models"


def test_the_posts_small_model_is_run_by_an_engine_that_cuts_texts_rightly() -> None:
    family, why = engine_of(POSTS_SMALL, samples.DESKTOP_32GB, samples.EMBEDDED_ONLY)
    assert (family, why) == (Family.EMBEDDED, f"{WRONG_TOKENS}; the embedded engine can load it")
    family, why = engine_of(POSTS_SMALL, samples.DESKTOP_32GB, samples.with_runtimes(samples.RUNTIME))
    assert (family, why) == (Family.V10, f"{WRONG_TOKENS}; this installed runtime can load it")
    with pytest.raises(PlanError) as caught:
        engine_of(POSTS_SMALL, samples.DESKTOP_32GB, samples.NOTHING)
    assert WRONG_TOKENS in (caught.value.cause or "")
    assert "llamafile-mgr pull llamafile-0.10.5" in (caught.value.hint or "")


def test_who_insists_gets_the_files_own_engine_and_is_told() -> None:
    insists = {POSTS_SMALL.name: ModelConfig(allow_known_bad=True)}
    for toolbox in (samples.NOTHING, samples.EMBEDDED_ONLY):
        (plan,) = plan_models((POSTS_SMALL,), samples.DESKTOP_32GB, toolbox, {}, insists)
        assert plan.family is Family.V1
        assert plan.accepted.known_bad == WRONG_TOKENS
        assert plan.warnings == (f"{WRONG_TOKENS}; allow_known_bad accepts that",)
    plain = samples.subject(header=samples.MISTRAL, name="e5-mistral-7b-instruct")
    (good,) = plan_models(
        (plain,), samples.DESKTOP_32GB, samples.NOTHING, {}, {plain.name: ModelConfig(allow_known_bad=True)}
    )
    assert (good.accepted.known_bad, good.warnings) == (None, ())


def test_what_is_accepted_shows_in_the_vector_space() -> None:
    def space(**accepted: Any) -> str:
        overrides = {POSTS_SMALL.name: ModelConfig(**accepted)}
        (plan,) = plan_models((POSTS_SMALL,), samples.DESKTOP_32GB, samples.EMBEDDED_ONLY, {}, overrides)
        return fingerprint_space(plan)

    spaces = [space(), space(least_cosine=0.9), space(least_cosine=0.8), space(allow_known_bad=True)]
    assert len(set(spaces)) == 4
    assert space(any_meaning=True) == spaces[0]


def test_a_packed_file_without_its_engine_says_what_to_install() -> None:
    packed = samples.subject(family=Family.EMBEDDED, version=None)
    assert engine_of(packed, samples.LAPTOP_8GB, samples.EMBEDDED_ONLY)[0] is Family.EMBEDDED
    with pytest.raises(PlanError) as caught:
        engine_of(packed, samples.LAPTOP_8GB, samples.NOTHING)
    assert caught.value.hint == "pip install 'llamafile-mgr[embedded]'"


def test_a_release_without_gpus_is_not_told_to_use_one() -> None:
    first = samples.subject("m", Role.GENERATE, family=Family.V10, version="0.10.0", header=samples.QWEN_08B)
    (plan,) = plan_models((first,), samples.WINDOWS_GPU, samples.NOTHING, {}, {})
    assert plan.settings.gpu == "disable"
    assert plan.warnings == ("0.10.0 has no GPU support on Windows",)


def test_lent_weights_and_own_weights_are_told_apart() -> None:
    (lent,) = plan_models((samples.mxbai_gguf,), samples.LAPTOP_8GB, samples.EMBEDDED_ONLY, {}, {})
    assert lent.settings.model == Path("/f")
    (own,) = plan_models((samples.mxbai,), samples.LAPTOP_8GB, samples.EMBEDDED_ONLY, {}, {})
    assert own.settings.model is None


@pytest.mark.parametrize("insists", [False, True])
@pytest.mark.parametrize(("family", "version"), [(Family.V1, "0.8.17"), (Family.V10, "0.10.5")])
def test_an_engine_whose_file_overrules_ours_is_never_started(
    family: Family, version: str, insists: bool
) -> None:
    header, name = samples.LLAMA_1B, "llama-3.2-1b"
    overruling = parse_arguments("-m m.gguf ... --host 0.0.0.0", ArgumentSyntax.SHELL)
    model = samples.subject(name, Role.GENERATE, family=family, version=version, header=header)
    model = replace(model, facts=replace(model.facts, arguments=overruling))
    settings = {name: ModelConfig(allow_known_bad=insists)}

    def plan(toolbox: Toolbox) -> Plan:
        return plan_models((model,), samples.DESKTOP_32GB, toolbox, {}, settings)[0]

    said = "its embedded arguments put --host 0.0.0.0 behind ours, where they overrule them"
    assert plan(samples.EMBEDDED_ONLY).family is Family.EMBEDDED
    for toolbox in (samples.NOTHING, samples.with_runtimes(replace(samples.NEWER, arguments=overruling))):
        with pytest.raises(PlanError) as caught:
            plan(toolbox)
        assert said in (caught.value.cause or "")
