"""Machines x models x engines: the plan that is expected for each, and the words of the rule behind it.

A plan is written as: family, program (``-m`` when weights are lent to it), context per slot, slots, batch,
threads, replicas, ``--gpu`` and layers, and the GPU.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llamafile_mgr.engines.toolbox import Toolbox
from llamafile_mgr.errors import PlanError
from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from tests.planner import samples
from tests.planner.samples import with_runtimes

BOTH = with_runtimes(samples.RUNTIME, python=True)
TWO_RUNTIMES = with_runtimes(samples.RUNTIME, samples.NEWER)
NEWER_ALONE = with_runtimes(samples.NEWER)
NEWER_AND_EMBEDDED = with_runtimes(samples.NEWER, python=True)
OLD_RUNTIME = with_runtimes(samples.OLD)
THIN_RUNTIME = with_runtimes(samples.THIN)
NO_SHELL = replace(samples.NOTHING, shell=False)
APE_LOADER = replace(NO_SHELL, ape=Path("/usr/bin/ape"))
EMBEDDED_WITHOUT_SHELL = replace(samples.EMBEDDED_ONLY, shell=False)

Row = tuple[Machine, tuple[ModelSpec, ...], Toolbox, tuple[str, ...], str]

TABLE: list[Row] = [
    (
        samples.LAPTOP_8GB,
        (samples.minilm,),
        BOTH,
        ("v10 sh -m c512 s16 b512 t1 x4 disable",),
        "23 million parameters scales badly with threads",
    ),
    (
        samples.LAPTOP_8GB,
        (samples.minilm,),
        samples.EMBEDDED_ONLY,
        ("embedded python -m c512 s16 b512 t1 x4 disable",),
        "the embedded engine can load it",
    ),
    (
        samples.LAPTOP_8GB,
        (samples.mxbai,),
        samples.NOTHING,
        ("v1 sh c512 s1 b- t4 x1 disable",),
        "the engine aborts on a BERT batch above its fixed 512",
    ),
    (
        samples.LAPTOP_8GB,
        (samples.e5,),
        samples.NOTHING,
        ("v1 sh c1024 s1 b- t4 x1 disable",),
        "less than 2048, for memory's sake",
    ),
    (
        samples.LAPTOP_8GB,
        (samples.sfr,),
        samples.NOTHING,
        ("error: sfr-embedding-mistral does not fit into this machine's memory",),
        "sfr-embedding-mistral needs 14.9 GB",
    ),
    (
        samples.LAPTOP_8GB,
        (samples.sfr_gguf,),
        BOTH,
        ("v10 sh -m c4096 s1 b512 t4 x1 disable",),
        "less than 2, for memory's sake",
    ),
    (
        samples.LAPTOP_8GB,
        (samples.bge_m3,),
        BOTH,
        ("v10 sh -m c2048 s16 b2048 t4 x1 disable",),
        "less than 4096, for memory's sake",
    ),
    (
        samples.LAPTOP_8GB,
        (
            samples.minilm,
            samples.qwen,
        ),
        BOTH,
        ("v10 sh -m c512 s16 b512 t1 x2 disable", "v10 sh c8192 s2 b- t2 x1 disable"),
        "shared with 1 other model",
    ),
    (
        samples.LAPTOP_8GB,
        (
            samples.sfr_gguf,
            samples.mistral,
        ),
        BOTH,
        ("error: mistral-7b does not fit into this machine's memory beside sfr-embedding-mistral (5.5 GB)",),
        "1.5 GB are left of this machine's 8 GB",
    ),
    (
        samples.LAPTOP_8GB,
        (
            samples.qwen,
            samples.mxbai_gguf,
        ),
        BOTH,
        ("v10 sh c8192 s2 b- t2 x1 disable", "v10 sh -m c512 s16 b512 t2 x1 disable"),
        "shared with 1 other model",
    ),
    (
        samples.LAPTOP_8GB,
        (samples.mxbai_gguf,),
        samples.NOTHING,
        ("error: nothing that is installed can run mxbai-embed-large-v1",),
        "it is weights without an engine",
    ),
    (
        samples.DESKTOP_32GB,
        (samples.sfr,),
        samples.NOTHING,
        ("v1 sh c4096 s1 b- t8 x1 disable",),
        "v1 never adds it",
    ),
    (
        samples.DESKTOP_32GB,
        (
            samples.sfr_gguf,
            samples.mistral,
        ),
        BOTH,
        ("v10 sh -m c4096 s2 b512 t4 x1 disable", "v10 sh -m c8192 s2 b- t4 x1 disable"),
        "each slot costs 537 MB of key/value cache",
    ),
    (
        samples.DESKTOP_32GB,
        (samples.qwen_106,),
        samples.NOTHING,
        ("v10 sh c65536 s2 b- t8 x1 disable",),
        "0.10.6 is many times slower on the processor",
    ),
    (
        samples.DESKTOP_32GB,
        (samples.qwen_106,),
        BOTH,
        ("v10 sh -m c65536 s2 b- t8 x1 disable",),
        "0.10.6 is many times slower on the processor",
    ),
    (
        samples.DESKTOP_32GB,
        (samples.mistral,),
        TWO_RUNTIMES,
        ("v10 sh -m c16384 s2 b- t8 x1 disable",),
        "llamafile-0.10.6: 0.10.6 is many times slower",
    ),
    (
        samples.DESKTOP_32GB,
        (samples.mistral,),
        NEWER_ALONE,
        ("v10 sh -m c16384 s2 b- t8 x1 disable",),
        "0.10.6 is many times slower on the processor",
    ),
    (
        samples.DESKTOP_32GB,
        (samples.mistral,),
        NEWER_AND_EMBEDDED,
        ("embedded python -m c16384 s2 b- t8 x1 disable",),
        "the embedded engine can load it",
    ),
    (
        samples.DESKTOP_32GB,
        (samples.llama_1b,),
        OLD_RUNTIME,
        ("v1 sh c32768 s1 b- t8 x1 disable",),
        "slots divide the context in this engine",
    ),
    (
        samples.DESKTOP_32GB,
        (samples.qwen_embed,),
        BOTH,
        ("v10 sh -m c4096 s2 b512 t8 x1 disable",),
        "the file says so",
    ),
    (
        samples.BUSY_8GB,
        (samples.minilm,),
        BOTH,
        ("v10 sh -m c512 s16 b512 t1 x3 disable",),
        "less than 4, for memory's sake",
    ),
    (
        samples.BUSY_8GB,
        (samples.qwen,),
        samples.NOTHING,
        ("v10 sh c512 s1 b128 t4 x1 disable",),
        "732 MB are free now: close other programs",
    ),
    (
        samples.BUSY_8GB,
        (samples.oss,),
        samples.NOTHING,
        ("error: gpt-oss-20b does not fit into this machine's memory",),
        "gpt-oss-20b needs 12.2 GB",
    ),
    (
        samples.CONTAINER_4GB,
        (samples.minilm,),
        BOTH,
        ("v10 sh -m c512 s16 b512 t1 x2 disable",),
        "of 2 usable cores",
    ),
    (
        samples.CONTAINER_4GB,
        (samples.mxbai,),
        samples.NOTHING,
        ("v1 sh c512 s1 b- t2 x1 disable",),
        "of 2 usable cores",
    ),
    (
        samples.CONTAINER_4GB,
        (samples.e5,),
        samples.NOTHING,
        ("error: e5-mistral-7b-instruct does not fit into this machine's memory",),
        "3.73 GB are left of this machine's 4 GB",
    ),
    (
        samples.CONTAINER_4GB,
        (
            samples.minilm,
            samples.qwen,
        ),
        BOTH,
        ("v10 sh -m c512 s16 b512 t1 x1 disable", "v10 sh c4096 s2 b- t1 x1 disable"),
        "of 2 usable cores, shared with 1 other model",
    ),
    (
        samples.CONTAINER_4GB,
        (samples.bge_m3,),
        samples.EMBEDDED_ONLY,
        ("embedded python -m c2048 s16 b2048 t2 x1 disable",),
        "less than 4096, for memory's sake",
    ),
    (
        samples.GPU_24GB,
        (samples.minilm,),
        BOTH,
        ("v10 sh -m c512 s32 b2048 t8 x1 nvidia on RTX 4090",),
        "a GPU is kept busy by one engine",
    ),
    (
        samples.GPU_24GB,
        (samples.minilm,),
        THIN_RUNTIME,
        ("v10 sh -m c512 s16 b512 t2 x4 disable",),
        "this engine has no support for the GPU that is there",
    ),
    (
        samples.GPU_24GB,
        (samples.minilm,),
        samples.EMBEDDED_ONLY,
        ("embedded python -m c512 s16 b512 t2 x4 disable",),
        "the embedded engine computes on the processor",
    ),
    (
        samples.GPU_24GB,
        (samples.mxbai,),
        samples.NOTHING,
        ("v1 sh c512 s1 b- t8 x1 nvidia:999 on RTX 4090",),
        "the model fits into the 22.8 GB that are free",
    ),
    (
        samples.GPU_24GB,
        (samples.sfr,),
        samples.NOTHING,
        ("v1 sh c4096 s1 b- t8 x1 nvidia:999 on RTX 4090",),
        "the model fits into the 22.8 GB that are free",
    ),
    (
        samples.GPU_24GB,
        (
            samples.sfr,
            samples.oss,
        ),
        samples.NOTHING,
        ("v1 sh c4096 s1 b- t4 x1 nvidia:999 on RTX 4090", "v10 sh c8192 s2 b- t4 x1 nvidia on RTX 4090"),
        "the engine fits the layers itself",
    ),
    (
        samples.GPU_24GB,
        (samples.qwen_106,),
        BOTH,
        ("v10 sh c131072 s2 b- t8 x1 nvidia on RTX 4090",),
        "the file's own engine can do it",
    ),
    (
        samples.GPU_4GB,
        (samples.mxbai,),
        samples.NOTHING,
        ("v1 sh c512 s1 b- t8 x1 nvidia:999 on GTX 1650",),
        "the file's own engine can do it",
    ),
    (
        samples.GPU_4GB,
        (samples.mistral_v1,),
        samples.NOTHING,
        ("v1 sh c4096 s1 b- t8 x1 nvidia:17 on GTX 1650",),
        "17 of 33 layers fit into the 3.8 GB that are free",
    ),
    (
        samples.GPU_4GB,
        (samples.mistral,),
        BOTH,
        ("v10 sh -m c4096 s2 b- t8 x1 nvidia on GTX 1650",),
        "12 of 33 layers fit",
    ),
    (
        samples.GPU_4GB,
        (samples.qwen,),
        samples.NOTHING,
        ("v10 sh c2048 s1 b128 t8 x1 nvidia on GTX 1650",),
        "less than the engine's own, for memory's sake",
    ),
    (
        samples.GPU_4GB,
        (
            samples.minilm,
            samples.oss,
        ),
        BOTH,
        ("v10 sh -m c512 s32 b2048 t4 x1 nvidia on GTX 1650", "v10 sh c4096 s2 b- t4 x1 nvidia on GTX 1650"),
        "layers fit into the 3.16 GB that are free",
    ),
    (
        samples.TWO_GPUS,
        (
            samples.mxbai,
            samples.oss,
        ),
        samples.NOTHING,
        ("v1 sh c512 s1 b- t8 x1 nvidia:999 on RTX 3060", "v10 sh c32768 s2 b- t8 x1 nvidia on RTX 4090"),
        "the model fits into the 11.4 GB that are free",
    ),
    (
        samples.TWO_GPUS,
        (
            samples.sfr_gguf,
            samples.mistral,
        ),
        BOTH,
        (
            "v10 sh -m c4096 s2 b512 t8 x1 nvidia on RTX 3060",
            "v10 sh -m c16384 s2 b- t8 x1 nvidia on RTX 4090",
        ),
        "the model fits into the 11.4 GB that are free",
    ),
    (
        samples.TWO_GPUS,
        (samples.minilm,),
        BOTH,
        ("v10 sh -m c512 s32 b2048 t16 x1 nvidia on RTX 4090",),
        "a GPU is kept busy by one engine",
    ),
    (
        samples.TWO_SMALL_GPUS,
        (samples.sfr,),
        samples.NOTHING,
        ("v1 sh c4096 s1 b- t16 x1 nvidia:999 on RTX 3060 + RTX 3060",),
        "the model fits into the 22.8 GB that are free",
    ),
    (
        samples.TWO_SMALL_GPUS,
        (samples.oss,),
        samples.NOTHING,
        ("v10 sh c16384 s2 b- t16 x1 nvidia on RTX 3060 + RTX 3060",),
        "the file's own engine can do it",
    ),
    (
        samples.AMD_GPU,
        (samples.mistral,),
        BOTH,
        ("v10 sh -m c16384 s2 b- t8 x1 vulkan on RX 7900",),
        "the model fits into the 19 GB that are free",
    ),
    (
        samples.AMD_GPU,
        (samples.mistral_v1,),
        samples.NOTHING,
        ("v1 sh c32768 s1 b- t8 x1 amd:999 on RX 7900",),
        "the file's own engine can do it",
    ),
    (
        samples.INTEL_IGPU,
        (samples.mistral,),
        BOTH,
        ("v10 sh -m c8192 s2 b- t4 x1 vulkan on Iris Xe",),
        "its memory is main memory, counted once",
    ),
    (
        samples.INTEL_IGPU,
        (samples.mistral_v1,),
        samples.NOTHING,
        ("v1 sh c8192 s1 b- t4 x1 disable",),
        "this engine has no support for the GPU that is there",
    ),
    (
        samples.UNUSABLE_GPU,
        (samples.qwen,),
        samples.NOTHING,
        ("v10 sh c32768 s2 b- t4 x1 disable",),
        "there is no GPU that an engine can use",
    ),
    (
        samples.MAC_16GB,
        (samples.minilm,),
        BOTH,
        ("v10 sh -m c512 s32 b2048 t4 x1 apple on Apple M1",),
        "its memory is main memory, counted once",
    ),
    (
        samples.MAC_16GB,
        (
            samples.mxbai,
            samples.qwen,
        ),
        samples.NOTHING,
        ("v1 sh c512 s1 b- t2 x1 apple:999 on Apple M1", "v10 sh c32768 s2 b- t2 x1 apple on Apple M1"),
        "its memory is main memory, counted once",
    ),
    (
        samples.MAC_16GB,
        (samples.oss,),
        samples.NOTHING,
        ("v10 sh c512 s1 b128 t4 x1 apple on Apple M1",),
        "9.73 GB are free now: close other programs",
    ),
    (
        samples.MAC_16GB,
        (samples.sfr,),
        samples.NOTHING,
        ("error: sfr-embedding-mistral does not fit into this machine's memory",),
        "14 GB are left of this machine's 16 GB",
    ),
    (
        samples.NO_AVX,
        (samples.mxbai,),
        samples.NOTHING,
        ("error: nothing that is installed can run mxbai-embed-large-v1",),
        "the processor has no AVX",
    ),
    (
        samples.NO_AVX,
        (samples.mxbai,),
        samples.EMBEDDED_ONLY,
        ("embedded python -m c512 s16 b512 t2 x1 disable",),
        "the processor has no AVX",
    ),
    (
        samples.NO_AVX,
        (samples.minilm,),
        BOTH,
        ("embedded python -m c512 s16 b512 t1 x2 disable",),
        "llamafile-0.10.5: the processor has no AVX",
    ),
    (
        samples.WSL,
        (samples.mxbai,),
        samples.NOTHING,
        ("v1 sh c512 s1 b- t8 x1 nvidia:999 on RTX 4090",),
        "the file's own engine can do it",
    ),
    (
        samples.WSL,
        (
            samples.minilm,
            samples.oss,
        ),
        BOTH,
        ("v10 sh -m c512 s32 b2048 t4 x1 nvidia on RTX 4090", "v10 sh c32768 s2 b- t4 x1 nvidia on RTX 4090"),
        "the model fits into the 22.2 GB",
    ),
    (
        samples.RASPBERRY,
        (samples.minilm,),
        BOTH,
        ("v10 sh -m c512 s16 b512 t1 x4 disable",),
        "one engine per core, 4 at most",
    ),
    (
        samples.RASPBERRY,
        (samples.qwen,),
        samples.NOTHING,
        ("v10 sh c8192 s2 b- t4 x1 disable",),
        "the file's own engine can do it",
    ),
    (
        samples.RASPBERRY_1GB,
        (samples.minilm,),
        samples.EMBEDDED_ONLY,
        ("embedded python -m c512 s16 b512 t1 x2 disable",),
        "less than 3, for memory",
    ),
    (
        samples.RASPBERRY_1GB,
        (samples.qwen,),
        samples.NOTHING,
        ("error: qwen3.5-0.8b does not fit into this machine's memory",),
        "qwen3.5-0.8b needs 2.01 GB",
    ),
    (
        samples.RASPBERRY_32BIT,
        (samples.minilm,),
        BOTH,
        ("embedded python -m c512 s16 b512 t1 x4 disable",),
        "llamafile-0.10.5: llamafiles run on x86-64 and 64-bit ARM alone",
    ),
    (
        samples.RASPBERRY_32BIT,
        (samples.mxbai,),
        samples.NOTHING,
        ("error: nothing that is installed can run mxbai-embed-large-v1",),
        "llamafiles run on x86-64 and 64-bit ARM alone",
    ),
    (
        samples.SERVER_192,
        (samples.minilm,),
        BOTH,
        ("v10 sh -m c512 s16 b512 t8 x24 disable",),
        "more than 8 threads in one engine rarely pay",
    ),
    (
        samples.SERVER_192,
        (samples.mxbai,),
        samples.NOTHING,
        ("v1 sh c512 s1 b- t19 x10 disable",),
        "more than 20 threads in one engine rarely pay",
    ),
    (
        samples.SERVER_192,
        (samples.mistral,),
        BOTH,
        ("v10 sh -m c32768 s2 b- t20 x1 disable",),
        "more than 20 threads in one engine rarely pay",
    ),
    (
        samples.SERVER_192,
        (
            samples.sfr,
            samples.oss,
        ),
        samples.NOTHING,
        ("v1 sh c4096 s1 b- t19 x5 disable", "v10 sh c32768 s2 b- t20 x1 disable"),
        "of 192 usable cores, shared with 1 other model",
    ),
    (
        samples.RISCV,
        (samples.minilm,),
        BOTH,
        ("embedded python -m c512 s16 b512 t2 x4 disable",),
        "llamafile-0.10.5: llamafiles run on x86-64 and 64-bit ARM alone",
    ),
    (
        samples.RISCV,
        (samples.qwen,),
        samples.NOTHING,
        ("error: nothing that is installed can run qwen3.5-0.8b",),
        "llamafiles run on x86-64 and 64-bit ARM alone",
    ),
    (
        samples.WINDOWS,
        (samples.mxbai,),
        samples.NOTHING,
        ("v1 /f c512 s1 b- t8 x1 disable",),
        "the file's own engine can do it",
    ),
    (
        samples.WINDOWS,
        (samples.e5,),
        samples.NOTHING,
        ("error: nothing that is installed can run e5-mistral-7b-instruct",),
        "Windows cannot start a program above 4 GB",
    ),
    (
        samples.WINDOWS,
        (samples.e5,),
        BOTH,
        ("v10 /rt/0.10.5 -m c4096 s2 b512 t8 x1 disable",),
        "Windows cannot start a program above 4 GB",
    ),
    (
        samples.WINDOWS,
        (samples.e5,),
        samples.EMBEDDED_ONLY,
        ("embedded python -m c4096 s2 b512 t8 x1 disable",),
        "Windows cannot start a program above 4 GB",
    ),
    (
        samples.WINDOWS_GPU,
        (samples.minilm,),
        BOTH,
        ("v10 /rt/0.10.5 -m c512 s32 b2048 t8 x1 nvidia on RTX 4090",),
        "a GPU is kept busy by one engine",
    ),
    (
        samples.WINDOWS_GPU,
        (samples.oss,),
        BOTH,
        ("v10 /rt/0.10.5 -m c32768 s2 b- t8 x1 nvidia on RTX 4090",),
        "Windows cannot start a program above 4 GB",
    ),
    (
        samples.WINDOWS_ARM,
        (samples.mxbai,),
        samples.NOTHING,
        ("error: nothing that is installed can run mxbai-embed-large-v1",),
        "on Windows llamafiles run on x86-64 alone",
    ),
    (
        samples.UNKNOWN,
        (samples.minilm,),
        samples.EMBEDDED_ONLY,
        ("embedded python -m c512 s16 b512 t1 x1 disable",),
        "of 1 usable cores",
    ),
    (
        samples.TWO_CORES,
        (samples.minilm,),
        samples.EMBEDDED_ONLY,
        ("embedded python -m c512 s16 b512 t1 x2 disable",),
        "2 engines share them",
    ),
    (
        samples.TWO_CORES,
        (
            samples.minilm,
            samples.qwen,
        ),
        samples.EMBEDDED_ONLY,
        ("embedded python -m c512 s16 b512 t1 x1 disable", "v10 sh c32768 s2 b- t1 x1 disable"),
        "of 2 usable cores, shared with 1 other model",
    ),
    (
        samples.TWO_CORES,
        (samples.mxbai_gguf,),
        samples.EMBEDDED_ONLY,
        ("embedded python -m c512 s16 b512 t2 x1 disable",),
        "keeps all cores busy with one engine",
    ),
    (
        samples.LAPTOP_8GB,
        (samples.mxbai,),
        APE_LOADER,
        ("v1 /usr/bin/ape c512 s1 b- t4 x1 disable",),
        "the file's own engine can do it",
    ),
    (
        samples.LAPTOP_8GB,
        (samples.mxbai,),
        NO_SHELL,
        ("error: nothing that is installed can run mxbai-embed-large-v1",),
        "there is no sh, and no ape loader",
    ),
    (
        samples.LAPTOP_8GB,
        (samples.mxbai,),
        EMBEDDED_WITHOUT_SHELL,
        ("embedded python -m c512 s16 b512 t4 x1 disable",),
        "there is no sh, and no ape loader",
    ),
]


def summarise(plan: Plan) -> str:
    """Return a plan in the words of the table."""
    settings = plan.settings
    program = "python" if len(plan.program) > 2 else plan.program[0]
    lent = " -m" if settings.model else ""
    layers = "" if settings.gpu_layers is None else f":{settings.gpu_layers}"
    where = "" if plan.device == "cpu" else f" on {plan.device}"
    return (
        f"{plan.family.value} {program}{lent} c{settings.context} s{settings.slots}"
        f" b{settings.batch or '-'} t{settings.threads} x{plan.replicas} {settings.gpu}{layers}{where}"
    )


def row_name(row: Row) -> str:
    """Return a test id: machine and models."""
    machine = next(name for name, value in vars(samples).items() if value is row[0])
    return f"{machine}-{'+'.join(subject.name for subject in row[1])}"


@pytest.mark.parametrize("row", TABLE, ids=row_name)
def test_the_table(row: Row) -> None:
    machine, subjects, toolbox, expected, words = row
    if expected[0].startswith("error: "):
        with pytest.raises(PlanError) as caught:
            plan_models(subjects, machine, toolbox, {}, {})
        assert caught.value.message == expected[0].removeprefix("error: ")
        assert words in (caught.value.cause or "")
        assert caught.value.hint
        return
    plans = plan_models(subjects, machine, toolbox, {}, {})
    assert tuple(summarise(plan) for plan in plans) == expected
    said = [reason.why for plan in plans for reason in plan.reasons]
    said += [warning for plan in plans for warning in plan.warnings]
    assert any(words in text for text in said), said


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 60
    assert len({row_name(row) for row in TABLE}) >= 60
