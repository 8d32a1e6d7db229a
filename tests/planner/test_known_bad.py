"""Engines that would fail: the table, and what is done instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import Family
from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.known_bad import KNOWN_BAD, Candidate, explain, find_known_bad
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.subjects import Subject
from tests.planner import samples

GOOD = Candidate(
    Family.V1, (0, 8, 4), Role.EMBED, Pooling.CLS, samples.mxbai.facts, samples.DESKTOP_32GB, samples.GB
)
EOS = samples.subject(header=replace(samples.BERT_LARGE, add_eos=True)).facts
TWO_GGUFS = samples.subject(ggufs=2).facts
V10 = replace(GOOD, family=Family.V10, version=(0, 10, 5), uses_gpu=True)


@pytest.mark.parametrize(
    ("candidate", "name"),
    [
        (GOOD, None),
        (replace(GOOD, version=(0, 8, 2)), None),
        (replace(GOOD, version=(0, 8, 12)), None),
        (replace(GOOD, version=(0, 8, 13)), "embeddings refused"),
        (replace(GOOD, version=(0, 9, 3)), "embeddings refused"),
        (replace(GOOD, version=(0, 9, 3), role=Role.GENERATE), None),
        (replace(GOOD, version=(0, 8, 1)), "embeddings wrong"),
        (replace(GOOD, version=(0, 6, 2)), "embeddings wrong"),
        (replace(GOOD, facts=EOS), "automatic end of sequence"),
        (replace(GOOD, facts=EOS, version=(0, 8, 0), role=Role.GENERATE), None),
        (replace(GOOD, family=Family.V2, version=(0, 9, 3)), "fixed pooling"),
        (replace(GOOD, family=Family.V2, version=(0, 9, 3), pooling=Pooling.LAST), None),
        (V10, None),
        (replace(V10, facts=EOS), None),
        (replace(V10, version=(0, 10, 6)), None),
        (replace(V10, version=(0, 10, 6), uses_gpu=False), "slow decoding on processors"),
        (replace(V10, uses_gpu=False), None),
        (replace(V10, arguments=("-m", "x.gguf", "--nobrowser")), "flags that went"),
        (replace(V10, arguments=("--no-mmap",)), None),
        (replace(V10, arguments=("--no-mmap",), version=(0, 10, 7)), "memory flags that went"),
        (replace(V10, facts=TWO_GGUFS, borrowed=True), "several models"),
        (replace(V10, facts=TWO_GGUFS), None),
        (replace(V10, machine=samples.NO_AVX), "avx"),
        (replace(GOOD, version=(0, 6, 2), role=Role.GENERATE, machine=samples.NO_AVX), None),
        (replace(GOOD, machine=samples.RISCV), "processor"),
        (replace(V10, machine=samples.WINDOWS, program_bytes=5 * samples.GB), "windows 4 GB"),
        (replace(V10, machine=samples.WINDOWS, program_bytes=4 * samples.GB), None),
        (replace(V10, program_bytes=5 * samples.GB), None),
        (replace(V10, machine=samples.WINDOWS_ARM), "windows on arm"),
        (replace(V10, machine=samples.WINDOWS_GPU, version=(0, 10, 0)), "no GPU on Windows"),
        (replace(GOOD, version=None), None),
        (replace(GOOD, version=None, machine=samples.RISCV), "processor"),
        (replace(GOOD, family=Family.EMBEDDED, version=None, machine=samples.NO_AVX), None),
        (
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
def test_the_rows(candidate: Candidate, name: str | None) -> None:
    found = find_known_bad(candidate)
    assert (found.name if found else None) == name


def test_every_row_is_met_by_some_candidate_and_explains_itself() -> None:
    names = [row.name for row in KNOWN_BAD]
    assert len(names) == len(set(names))
    for row in KNOWN_BAD:
        text = explain(row, (0, 9, 3))
        assert "{" not in text
        assert explain(row, None)


def engine_of(subject: Subject, machine: Machine, toolbox: object) -> tuple[Family, str]:
    (plan,) = plan_models((subject,), machine, toolbox, {}, {})  # type: ignore[arg-type]
    return plan.family, plan.reasons[0].why


def test_llamafiler_serves_last_token_models_when_nothing_else_can() -> None:
    e5 = samples.subject("e5-mistral-7b-instruct", version="0.9.3", header=samples.MISTRAL)
    family, why = engine_of(e5, samples.DESKTOP_32GB, samples.NOTHING)
    assert family is Family.V2
    assert why == "its engine 0.9.3 refuses embeddings; its llamafiler can do it"
    assert engine_of(e5, samples.DESKTOP_32GB, samples.EMBEDDED_ONLY)[0] is Family.EMBEDDED
    with pytest.raises(PlanError):
        engine_of(samples.subject(version="0.9.3"), samples.DESKTOP_32GB, samples.NOTHING)


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
