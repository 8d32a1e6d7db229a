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
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.selection import select_engine
from tests.planner.samples import (
    EMBEDDED_ONLY,
    GPU_24GB,
    LAPTOP_8GB,
    MINILM,
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
    assert select_engine(BARE, LAPTOP_8GB, tools, Pooling.MEAN).program == program


def test_a_llamafile_runs_on_its_own_engine_unless_another_was_named() -> None:
    spec = subject(version="0.10.5", family=Family.V10)
    assert select_engine(spec, LAPTOP_8GB, toolbox(FOUND), Pooling.CLS).family is Family.V10
    named = select_engine(spec, LAPTOP_8GB, toolbox(TOLD), Pooling.CLS)
    assert named.program == (*UNPACKER, *TOLD.command)
    assert named.weights == spec.path
    assert "was named to run models; the weights are unpacked" in named.reason.why


def test_one_that_lacks_what_is_needed_is_passed_over_and_says_so() -> None:
    old = replace(FOUND, flags=FLAGS - {"--pooling mean"})
    selection = select_engine(BARE, LAPTOP_8GB, toolbox(old), Pooling.MEAN)
    assert selection.family is Family.EMBEDDED
    assert "its build has no --pooling mean" in selection.reason.why
    with pytest.raises(PlanError, match="nothing that is installed") as raised:
        select_engine(BARE, LAPTOP_8GB, toolbox(old, base=NOTHING), Pooling.MEAN)
    assert "install llama.cpp" in str(raised.value.hint)


def test_a_named_one_that_cannot_is_told_where_the_files_own_engine_takes_its_place() -> None:
    spec = subject(version="0.10.5", family=Family.V10)
    old = replace(TOLD, flags=FLAGS - {"--pooling cls"})
    selection = select_engine(spec, LAPTOP_8GB, toolbox(old), Pooling.CLS)
    assert selection.family is Family.V10
    assert "its build has no --pooling cls" in selection.reason.why


def test_several_ggufs_in_a_file_stay_with_its_own_engine() -> None:
    spec = subject(ggufs=2, version="0.10.5", family=Family.V10)
    assert select_engine(spec, LAPTOP_8GB, toolbox(TOLD), Pooling.CLS).family is Family.V10


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
