"""Which engine runs a model where programs of the system are there too, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.toolbox import InstalledProgram, Toolbox
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import FileKind
from llamafile_mgr.planner.asked_features import AskedFeatures
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.selection import select_engine
from tests.planner.samples import (
    DESKTOP_32GB,
    EMBEDDED_ONLY,
    GPU_24GB,
    LAPTOP_8GB,
    MINILM,
    MISTRAL,
    NOTHING,
    RUNTIME,
    subject,
    weights,
)
from tests.support.llama_programs import HELP

FLAGS = family_rules(Family.LLAMA_CPP).read_flags(HELP.read_text(encoding="utf-8"))
FOUND = InstalledProgram("llama-server", ("/usr/bin/llama-server",), "0.5.0-dev (build 1)", FLAGS)
TOLD = replace(FOUND, command=("/opt/llama", "serve"), told=True)
UNPACKER = ("/py", "-m", "unpacking")


def toolbox(*programs: InstalledProgram, base: Toolbox = EMBEDDED_ONLY, runtime: bool = False) -> Toolbox:
    return replace(base, programs=programs, unpacker=UNPACKER, runtimes=(RUNTIME,) if runtime else ())


BARE = weights("minilm", MINILM, 46_000_000)


@pytest.mark.parametrize(
    ("tools", "program"),
    [
        (toolbox(FOUND), FOUND.command),
        (toolbox(FOUND, base=NOTHING), FOUND.command),
        (toolbox(FOUND, runtime=True), ("sh", str(RUNTIME.path))),
        (toolbox(TOLD, FOUND, runtime=True), TOLD.command),
        (toolbox(FOUND, replace(TOLD, told=False)), FOUND.command),
        (toolbox(), ("/py", "-m", "llamafile_mgr.engines.embedded")),
    ],
)
def test_the_order_of_engines_for_weights(tools: Toolbox, program: tuple[str, ...]) -> None:
    assert select_engine(BARE, LAPTOP_8GB, tools, Pooling.MEAN, AskedFeatures()).program == program


def test_a_llamafile_runs_on_its_own_engine_unless_another_was_named() -> None:
    spec = subject(version="0.10.5", family=Family.V10)
    assert select_engine(spec, LAPTOP_8GB, toolbox(FOUND), Pooling.CLS, AskedFeatures()).family is Family.V10
    named = select_engine(spec, LAPTOP_8GB, toolbox(TOLD), Pooling.CLS, AskedFeatures())
    assert named.program == (*UNPACKER, *TOLD.command)
    assert named.weights == spec.path
    assert "was named to run models; the weights are unpacked" in named.reason.why


def test_one_that_lacks_what_is_needed_is_passed_over_and_says_so() -> None:
    old = replace(FOUND, flags=FLAGS - {"--pooling mean"})
    selection = select_engine(BARE, LAPTOP_8GB, toolbox(old), Pooling.MEAN, AskedFeatures())
    assert selection.family is Family.EMBEDDED
    assert "its build has no --pooling mean" in selection.reason.why
    with pytest.raises(PlanError, match="nothing that is installed") as raised:
        select_engine(BARE, LAPTOP_8GB, toolbox(old, base=NOTHING), Pooling.MEAN, AskedFeatures())
    assert "install llama.cpp" in str(raised.value.hint)


def test_a_named_one_that_cannot_is_told_where_the_files_own_engine_takes_its_place() -> None:
    spec = subject(version="0.10.5", family=Family.V10)
    old = replace(TOLD, flags=FLAGS - {"--pooling cls"})
    selection = select_engine(spec, LAPTOP_8GB, toolbox(old), Pooling.CLS, AskedFeatures())
    assert selection.family is Family.V10
    assert "its build has no --pooling cls" in selection.reason.why


def test_several_ggufs_in_a_file_stay_with_its_own_engine() -> None:
    spec = subject(ggufs=2, version="0.10.5", family=Family.V10)
    assert select_engine(spec, LAPTOP_8GB, toolbox(TOLD), Pooling.CLS, AskedFeatures()).family is Family.V10


@pytest.mark.parametrize("role", [Role.EMBED, Role.GENERATE])
def test_a_plan_shows_the_flags_of_its_help(role: Role) -> None:
    spec = replace(BARE, role=role)
    (plan,) = plan_models((spec,), LAPTOP_8GB, toolbox(FOUND), {}, {"minilm": ModelConfig()})
    command = plan.command(1, Path("/k"))
    assert command[0] == "/usr/bin/llama-server"
    assert {word for word in command if word.startswith("-")} <= FLAGS
    assert plan.reasons[0].value == "llama.cpp 0.5.0-dev (build 1)"
    assert spec.facts.kind is FileKind.WEIGHTS


@pytest.mark.parametrize(
    ("features", "quantisation", "tools", "kept"),
    [
        (("avx2", "amx_int8"), "Q8_0", toolbox(FOUND), True),
        (("avx2", "amx_int8"), "Q4_K_M", toolbox(FOUND), True),
        (("avx2", "amx_int8"), "F16", toolbox(FOUND), False),
        (("avx2", "avx512_vnni"), "Q8_0", toolbox(FOUND), False),
        (None, "Q8_0", toolbox(FOUND), False),
        (("avx2", "amx_int8"), "Q8_0", toolbox(), False),  # the wheel is built for AVX2
    ],
)
def test_quantised_weights_stay_as_they_are_where_repacked_ones_crash(
    features: tuple[str, ...] | None, quantisation: str, tools: Toolbox, kept: bool
) -> None:
    spec = weights("minilm", replace(MINILM, quantisation=quantisation), 25_000_000)
    machine = replace(LAPTOP_8GB, cpu=replace(LAPTOP_8GB.cpu, features=features))
    (plan,) = plan_models((spec,), machine, tools, {}, {})
    assert ("--no-repack" in plan.command(1, Path("/k"))) is kept
    assert any(reason.setting == "repack" for reason in plan.reasons) is kept


@pytest.mark.parametrize(
    ("devices", "device", "flags"),
    [
        (("CUDA0: NVIDIA GeForce RTX 4090 (24564 MiB, 23000 MiB free)",), "RTX 4090", ()),
        (("Vulkan0: NVIDIA GeForce RTX 4090 (24564 MiB, 23000 MiB free)",), "RTX 4090", ()),
        ((), "cpu", ("--device", "none")),
    ],
)
def test_a_gpu_is_used_where_the_program_lists_it(
    devices: tuple[str, ...], device: str, flags: tuple[str, ...]
) -> None:
    tools = toolbox(replace(FOUND, devices=devices))
    (plan,) = plan_models((BARE,), GPU_24GB, tools, {}, {"minilm": ModelConfig()})
    command = plan.command(1, Path("/k"))
    assert plan.device == device
    assert ("--device" in command) is bool(flags)
    assert not {"--gpu", "-ngl"} & set(command)


@pytest.mark.parametrize(
    ("told", "lacks"),
    [
        (ModelConfig(cache_type=("q8_0", "f16")), "--cache-type-k q8_0"),
        (ModelConfig(reasoning_budget=0), "--reasoning-budget"),
        (ModelConfig(engine_args=("--top-k", "-1")), "--top-k"),
    ],
)
def test_what_settings_ask_for_must_be_in_its_help(told: ModelConfig, lacks: str) -> None:
    spec = weights("mistral", MISTRAL, 4_000_000_000, Role.GENERATE)
    tools = toolbox(FOUND, base=NOTHING)
    (plan,) = plan_models((spec,), DESKTOP_32GB, tools, {}, {"mistral": told})
    assert lacks in " ".join(plan.command(1, None))
    old = replace(FOUND, flags=FLAGS - {lacks})
    with pytest.raises(PlanError) as raised:
        plan_models((spec,), DESKTOP_32GB, toolbox(old, base=NOTHING), {}, {"mistral": told})
    assert f"its build has no {lacks}" in str(raised.value.cause)
