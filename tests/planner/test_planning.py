"""Plans for models, machines and toolboxes: which engine, which flags, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engines.toolbox import InstalledRuntime, Toolbox
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import Family, FileFacts, FileKind
from llamafile_mgr.machine import Cpu, Gpu, Machine, System
from llamafile_mgr.machine.hardware import Memory
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from tests.planner.samples import EMBEDDED_ONLY, GB, MISTRAL, RUNTIME, subject

MACHINE = Machine(System.LINUX, cpu=Cpu(physical_cores=8, logical_cpus=16), memory=Memory(total=32 * GB))
TOOLBOX = EMBEDDED_ONLY


def plan(
    *subjects: ModelSpec, machine: Machine = MACHINE, toolbox: Toolbox = TOOLBOX, **environ: str
) -> Plan:
    return plan_models(subjects, machine, toolbox, environ, {})[0]


CAUSAL = MISTRAL


def test_the_posts_small_model_on_its_own_engine() -> None:
    made = plan(subject())
    assert made.command(8081, Path("/k")) == (
        *("sh", "/f", "--server", "--nobrowser", "--host", "127.0.0.1", "--port", "8081"),
        *("-c", "512", "-t", "8", "-tb", "8", "--embedding", "-np", "1", "--gpu", "disable"),
        *("--alias", "mxbai-embed-large-v1", "--api-key-file", "/k"),
    )
    assert (made.dimensions, made.max_tokens) == (1024, 512)


def test_the_posts_large_models_on_their_own_engine() -> None:
    for name in ("e5-mistral-7b-instruct", "sfr-embedding-mistral"):
        made = plan(subject(name, header=CAUSAL))
        command = made.command(1, None)
        assert command[command.index("-c") + 1] == "4096"
        assert "-b" not in command
        assert made.settings.pooling is Pooling.LAST


@pytest.mark.parametrize(
    ("version", "family", "why"),
    [
        ("0.9.3", Family.V1, "refuses embeddings"),
        ("0.8.13", Family.V1, "refuses embeddings"),
        ("0.8.1", Family.V1, "gives wrong vectors"),
        ("0.7.0", Family.V1, "gives wrong vectors"),
        (None, None, "could not be told"),
    ],
)
def test_an_engine_that_embeds_wrong_is_replaced(
    version: str | None, family: Family | None, why: str
) -> None:
    made = plan(subject(version=version, family=family), toolbox=replace(TOOLBOX, runtimes=(RUNTIME,)))
    assert made.family is Family.V10
    assert made.program == ("sh", "/rt/0.10.5")
    assert made.settings.model == Path("/f")
    assert why in made.reasons[0].why
    made = plan(subject(version=version, family=family))
    assert made.family is Family.EMBEDDED
    with pytest.raises(PlanError, match="nothing that is installed") as caught:
        plan(subject(version=version, family=family), toolbox=replace(TOOLBOX, python=None))
    assert "pull llamafile-0.10.5" in (caught.value.hint or "")


def test_generation_stays_on_the_engine_that_refuses_embeddings() -> None:
    made = plan(subject("x", Role.GENERATE, version="0.9.3", header=CAUSAL))
    assert made.family is Family.V1
    assert made.program == ("sh", "/f")


def test_weights_take_the_newest_runtime() -> None:
    older = InstalledRuntime("llamafile-0.10.4", Path("/rt/0.10.4"), "0.10.4")
    ancient = InstalledRuntime("llamafile-0.9.3", Path("/rt/0.9.3"), "0.9.3")
    toolbox = replace(TOOLBOX, runtimes=(older, RUNTIME, ancient))
    made = plan(subject(kind=FileKind.WEIGHTS, family=None, version=None), toolbox=toolbox)
    assert made.program == ("sh", "/rt/0.10.5")


def test_an_encoder_gets_a_batch_for_its_longest_text() -> None:
    made = plan(subject(kind=FileKind.WEIGHTS, family=None, version=None))
    assert (made.settings.batch, made.settings.context, made.settings.slots) == (512, 512, 16)


def test_models_share_the_cores() -> None:
    chat = subject("chat", Role.GENERATE, FileKind.WEIGHTS, None, None, CAUSAL)
    made = plan_models((subject(), chat), MACHINE, TOOLBOX, {}, {})
    assert [each.settings.threads for each in made] == [4, 4]
    assert any("shared with 1 other model" in reason.why for reason in made[0].reasons)
    limited = replace(MACHINE, cpu=replace(MACHINE.cpu, quota=2.0))
    assert plan(subject(), machine=limited).settings.threads == 2


def test_wishes_are_kept() -> None:
    wishes = {"mxbai-embed-large-v1": ModelConfig(context=256, threads=3, slots=2)}
    settings = plan_models((subject(version="0.10.5", family=Family.V10),), MACHINE, TOOLBOX, {}, wishes)[
        0
    ].settings
    assert (settings.context, settings.threads, settings.slots) == (256, 3, 2)


def test_a_gpu_with_room_is_used_explicitly() -> None:
    gpu = Gpu("nvidia", "L4", memory_total=24 * GB, memory_free=20 * GB, backend="nvidia")
    machine = replace(MACHINE, gpus=(gpu,))
    assert plan(subject(), machine=machine).settings.gpu_layers == 999
    new = plan(subject(version="0.10.5", family=Family.V10), machine=machine).settings
    assert (new.gpu, new.gpu_layers) == ("nvidia", None)
    small = replace(machine, gpus=(replace(gpu, memory_free=GB // 2),))
    assert plan(subject(), machine=small).settings.gpu == "disable"


def test_the_environment_is_scrubbed() -> None:
    made = plan(
        subject(kind=FileKind.WEIGHTS, family=None, version=None),
        PATH="/bin",
        LLAMA_ARG_CTX_SIZE="9",
        HF_TOKEN="secret",
        HOME="/root",
        CUDA_VISIBLE_DEVICES="1",
    )
    assert made.environment["PATH"] == "/bin"
    assert made.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert (made.environment["HOME"], made.environment["TMPDIR"]) == ("/home", "/home/tmp")
    assert not {"LLAMA_ARG_CTX_SIZE", "HF_TOKEN"} & set(made.environment)


def test_what_cannot_be_planned_says_why() -> None:
    with pytest.raises(PlanError, match="engine without weights"):
        plan(replace(subject(), facts=FileFacts(Path("/f"), 1, FileKind.RUNTIME, "0.10.5", Family.V10, ())))
    unknown = subject("unknown", header=replace(CAUSAL, pooling=None), family=Family.V10, version="0.10.5")
    with pytest.raises(PlanError, match="nothing tells how unknown pools"):
        plan(unknown)


def test_every_choice_has_a_reason() -> None:
    reasons = {reason.setting: reason for reason in plan(subject(kind=FileKind.WEIGHTS)).reasons}
    assert set(reasons) == {
        *("engine", "context", "slots", "batch", "threads", "replicas", "gpu", "pooling", "memory")
    }
    assert all(reason.why for reason in reasons.values())
