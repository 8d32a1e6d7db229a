"""What holds for every plan, whatever the machine, the models and the engines."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from llamafile_mgr.catalog import Role
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import Family, FileKind
from llamafile_mgr.machine import Cpu, Gpu, Machine, System
from llamafile_mgr.machine.hardware import Memory
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from tests.planner import samples

MIB = 1 << 20
SIZES = st.one_of(st.integers(256 * MIB, 8 << 30), st.integers(8 << 30, 1 << 40))
NUMBERS = st.integers(1, 256)
RELEASES = ("0.6.2", "0.8.0", "0.8.4", "0.8.13", "0.9.3", "0.10.0", "0.10.5", "0.10.6", "0.11.0")
#: Setting of a plan -> the reason that explains it.
EXPLAINED = {
    "context": "context",
    "slots": "slots",
    "batch": "batch",
    "threads": "threads",
    "batch_threads": "batch_threads",
    "pooling": "pooling",
    "gpu": "gpu",
    "gpu_layers": "gpu",
    "flash_attention": "flash_attention",
    "prompt_cache_mib": "prompt_cache",
    "model": "engine",
}
#: Settings that are no choice: who is served, where, and what keeps others out.
GIVEN = {"asked", "role", "port", "alias", "api_key_file", "host", "gpu_required"}


@st.composite
def gpus(draw: st.DrawFn) -> Gpu:
    vendor, backend = draw(
        st.sampled_from(
            [
                ("nvidia", "nvidia"),
                ("amd", "amd"),
                ("apple", "apple"),
                ("intel", "vulkan"),
                ("other", None),
            ]
        )
    )
    total = draw(st.none() | SIZES)
    free = None if total is None else draw(st.integers(0, total))
    unified = vendor == "apple" or (vendor == "intel" and draw(st.booleans()))
    return Gpu(vendor, f"gpu {draw(NUMBERS)}", draw(st.integers(0, 7)), total, free, unified, backend=backend)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    total = draw(st.none() | SIZES)
    available = None if total is None else draw(st.none() | st.integers(0, total))
    limit = draw(st.none() | SIZES)
    return Machine(
        draw(st.sampled_from(list(System))),
        architecture=draw(st.sampled_from([None, "x86_64", "arm64", "riscv64"])),
        cpu=Cpu(
            physical_cores=draw(st.none() | NUMBERS),
            logical_cpus=draw(st.none() | NUMBERS),
            quota=draw(st.none() | st.floats(0.1, 64)),
            features=draw(st.sampled_from([None, (), ("avx", "ssse3")])),
        ),
        memory=Memory(
            total=total,
            available=available,
            cgroup_limit=limit,
            cgroup_usage=None if limit is None else draw(st.integers(0, limit)),
        ),
        gpus=tuple(draw(st.lists(gpus(), max_size=3, unique_by=lambda gpu: (gpu.vendor, gpu.index)))),
    )


@st.composite
def models(draw: st.DrawFn, name: str) -> ModelSpec:
    header = draw(
        st.sampled_from(
            [
                samples.MINILM,
                samples.BERT_LARGE,
                samples.BGE_M3,
                replace(samples.MISTRAL, pooling="last"),
                replace(samples.QWEN_08B, pooling="last", add_eos=True),
                samples.QWEN_EMBED,
            ]
        )
    )
    role = draw(st.sampled_from([Role.EMBED, Role.GENERATE]))
    release = draw(st.none() | st.sampled_from(RELEASES))
    bare = release is None
    family = (
        None if bare else (Family.V10 if release and release >= "0.10" and len(release) > 5 else Family.V1)
    )
    return samples.subject(
        name,
        role,
        FileKind.WEIGHTS if bare else FileKind.LLAMAFILE,
        family,
        release,
        header,
        draw(st.one_of(st.integers(MIB, 3 * samples.GB), st.integers(MIB, 20 * samples.GB))),
        modules=draw(st.sampled_from([(), samples.CUDA, ("ggml-vulkan.dll",)])),
    )


TOOLBOXES = st.sampled_from(
    [
        samples.NOTHING,
        samples.EMBEDDED_ONLY,
        samples.with_runtimes(samples.RUNTIME),
        samples.with_runtimes(samples.NEWER, samples.THIN, python=True),
    ]
)
NAMES = ("first", "second", "third")
SUBJECTS = st.integers(1, 3).flatmap(lambda count: st.tuples(*(models(name) for name in NAMES[:count])))


def attempt(subjects: tuple[ModelSpec, ...], machine: Machine, toolbox: object) -> tuple[Plan, ...]:
    """Return the plans, none after a refusal, which must say why and what to do."""
    try:
        return plan_models(subjects, machine, toolbox, {}, {})  # type: ignore[arg-type]
    except PlanError as error:
        refusal = error
    assert refusal.message
    assert refusal.hint
    return ()


@settings(max_examples=300, deadline=None)
@given(SUBJECTS, machines(), TOOLBOXES)
def test_plans_never_ask_for_more_than_there_is(
    subjects: tuple[ModelSpec, ...], machine: Machine, toolbox: object
) -> None:
    plans = attempt(subjects, machine, toolbox)
    estimates = [plan.memory for plan in plans if plan.memory is not None]
    assert len(estimates) == len(plans)
    ceiling = machine.memory.ceiling
    if ceiling is not None:
        assert sum(estimate.joint for estimate in estimates) <= ceiling
    dedicated = sum(machine.memory_of(gpu) or 0 for gpu in machine.gpus if not gpu.unified)
    assert sum(estimate.joint_device for estimate in estimates) <= dedicated
    for plan in plans:
        assert plan.replicas * plan.settings.threads <= machine.cpu.usable_cores
        if machine.memory.usable is not None and not plan.warnings and plan.memory is not None:
            assert plan.memory.joint <= machine.memory.usable


@settings(max_examples=200, deadline=None)
@given(SUBJECTS, machines(), TOOLBOXES)
def test_every_setting_has_a_reason(
    subjects: tuple[ModelSpec, ...], machine: Machine, toolbox: object
) -> None:
    for plan in attempt(subjects, machine, toolbox):
        reasons = {reason.setting: reason for reason in plan.reasons}
        assert len(reasons) == len(plan.reasons)
        assert all(reason.why and reason.value for reason in plan.reasons)
        for name in plan.settings.__dataclass_fields__:
            if name not in GIVEN and getattr(plan.settings, name) is not None:
                assert EXPLAINED[name] in reasons, name
        assert {"engine", "replicas", "memory"} <= set(reasons)


@settings(max_examples=200, deadline=None)
@given(SUBJECTS, machines(), TOOLBOXES)
def test_every_command_is_safe_to_start(
    subjects: tuple[ModelSpec, ...], machine: Machine, toolbox: object
) -> None:
    for plan in attempt(subjects, machine, toolbox):
        command = plan.command(8081, None)
        assert "--server" in command
        assert any("127.0.0.1" in part for part in command)
        assert "--gpu" in command
        assert not {"--mmap", "--no-mmap", "--mlock", "--load-mode"}.intersection(command)
        if machine.system is not System.WINDOWS and plan.family is not Family.EMBEDDED:
            assert command[0] == "sh"
        if plan.family in (Family.V10, Family.EMBEDDED):
            assert "-ngl" not in command
        if plan.role is Role.EMBED and plan.max_tokens is not None:
            assert plan.max_tokens <= plan.settings.context
