"""How long a conversation may be, how many cores are used, and how a GPU is kept busy."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engines.toolbox import Toolbox
from llamafile_mgr.machine import Machine, Memory
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.pool import make_policy
from tests.planner import samples

GB = samples.GB
BOTH = samples.with_runtimes(samples.RUNTIME, python=True)


def plan(spec: ModelSpec, machine: Machine, toolbox: Toolbox = BOTH, wish: ModelConfig | None = None) -> Plan:
    (found,) = plan_models((spec,), machine, toolbox, {}, {spec.name: wish or ModelConfig()})
    return found


def with_memory(free: int) -> Machine:
    return replace(samples.DESKTOP_32GB, memory=Memory(total=2 * free, available=free))


@pytest.mark.parametrize("spec", [samples.mistral, samples.qwen, samples.llama_1b])
@pytest.mark.parametrize("toolbox", [BOTH, samples.EMBEDDED_ONLY])
def test_a_conversation_is_as_long_as_memory_and_the_model_allow(spec: ModelSpec, toolbox: Toolbox) -> None:
    sizes = [int(n * GB) for n in (6, 8, 12, 16, 24, 32, 64, 128, 512)]
    plans = [(free, plan(spec, with_memory(free), toolbox)) for free in sizes]
    contexts = [each.settings.context for _, each in plans]
    assert all(less <= more for less, more in pairwise(contexts))
    assert contexts[-1] == spec.text_limit
    for free, each in plans:
        assert each.memory is not None
        caches = each.memory.kv_cache + each.memory.compute
        assert each.settings.context <= 4096 or 4 * caches <= free
        assert each.memory.prompt_cache <= (each.memory.weights + each.memory.kv_cache) // 5 + (1 << 20)


def test_what_nothing_tells_of_memory_is_no_reason_for_more() -> None:
    assert plan(samples.mistral, samples.UNKNOWN, samples.EMBEDDED_ONLY).settings.context == 4096


def test_a_length_that_no_model_has_is_bounded_by_memory() -> None:
    endless = samples.weights("endless", replace(samples.MISTRAL, context_length=1 << 62), GB, Role.GENERATE)
    assert plan(endless, with_memory(16 * GB), samples.EMBEDDED_ONLY).settings.context <= 65536


def test_the_settings_win_over_the_rule() -> None:
    told = plan(samples.mistral, samples.SERVER_192, wish=ModelConfig(context=2048))
    assert told.settings.context == 2048


def test_more_slots_share_the_same_memory() -> None:
    two, four = (
        plan(samples.mistral, with_memory(16 * GB), samples.EMBEDDED_ONLY, ModelConfig(slots=slots))
        for slots in (2, 4)
    )
    assert four.settings.slots == 4
    assert four.settings.context < two.settings.context


def test_a_long_conversation_gives_way_before_a_slot_does() -> None:
    """On the smaller GPU the model leaves less than a quarter for its caches."""
    found = plan(samples.mistral, samples.GPU_24GB)
    small = replace(samples.GPU_24GB, gpus=(replace(samples.GPU_24GB.gpus[0], memory_free=9 * GB),))
    shrunk = plan(samples.mistral, small)
    assert shrunk.settings.slots == found.settings.slots == 2
    assert shrunk.settings.context < found.settings.context


@pytest.mark.parametrize("spec", [samples.minilm, samples.mxbai_gguf, samples.qwen_embed, samples.mxbai])
@pytest.mark.parametrize("cores", [2, 8, 16, 32, 48, 64, 96, 192])
def test_every_core_is_used(spec: ModelSpec, cores: int) -> None:
    machine = replace(
        samples.SERVER_192, cpu=replace(samples.SERVER_192.cpu, physical_cores=cores, logical_cpus=2 * cores)
    )
    found = plan(spec, machine)
    used = found.settings.threads * found.replicas
    assert 0.9 * cores <= used <= cores
    assert found.settings.threads <= 20


def test_prompts_are_read_on_every_core() -> None:
    command = plan(samples.mistral, samples.SERVER_192).command(1, None)
    assert command[command.index("-t") + 1] == "20"
    assert command[command.index("-tb") + 1] == "192"
    few = plan(samples.mistral, samples.DESKTOP_32GB).command(1, None)
    assert "-tb" not in few
    told = plan(samples.mistral, samples.SERVER_192, wish=ModelConfig(threads=4)).command(1, None)
    assert "-tb" not in told


def test_an_encoder_on_a_gpu_gets_batches_that_fill_it() -> None:
    found = plan(samples.minilm, samples.GPU_24GB)
    settings = found.settings
    assert (settings.batch, settings.slots, settings.context) == (2048, 32, 512)
    policy = make_policy(found)
    assert (policy.batch_tokens, policy.batch_texts, policy.bulk_batches) == (2048, 32, 2)
    here = make_policy(plan(samples.minilm, samples.DESKTOP_32GB))
    assert (here.batch_tokens, here.bulk_batches) == (256, 1)
    assert plan(samples.minilm, samples.GPU_24GB, wish=ModelConfig(slots=8)).settings.slots == 8


def test_a_gpu_with_little_memory_keeps_small_batches() -> None:
    tight = replace(samples.GPU_4GB.gpus[0], memory_free=1_690_000_000)
    found = plan(samples.minilm, replace(samples.GPU_4GB, gpus=(tight,)))
    assert found.device == "GTX 1650"
    assert found.settings.batch == 512
