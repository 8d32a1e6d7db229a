"""Checks of processor, memory and GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from llamafile_mgr.machine.findings import Check, failed, gib, passed, warned
from llamafile_mgr.machine.gpu_vendor import NO_SUPPORT
from llamafile_mgr.machine.hardware import Gpu, Machine
from llamafile_mgr.machine.launch import LaunchFacts
from llamafile_mgr.machine.vendors import find_vendor

_MIB, _GIB = 1024**2, 1024**3
#: The smallest embedding model needs about 100 MB with its buffers.
_LEAST_MEMORY = 256 * _MIB
#: mxbai-embed-large-v1, the post's small choice, needs 0.7 GB for its weights, plus buffers and the proxy.
_COMFORTABLE_MEMORY = 2 * _GIB
_HOST_CPU = "in a virtual machine pass the host's processor through (QEMU: -cpu host)"


def check_features(machine: Machine, facts: LaunchFacts) -> Iterator[Check]:
    """Judge the instruction sets that engines need."""
    cpu = machine.cpu
    name = cpu.model or "unknown processor"
    if machine.architecture != "x86_64":
        return
    if cpu.features is None:
        yield warned(
            "cpu-features",
            f"{name}: nothing tells its instruction sets",
            "llamafiles stop at once where AVX is missing",
            "none needed if engines start; the first start will tell",
        )
    elif not cpu.has("avx"):
        yield failed(
            "cpu-features",
            f"{name} has no AVX",
            "llamafiles since 0.7 stop with 'the cpu feature AVX was required'",
            f"{_HOST_CPU}; else use another computer",
        )
    elif not (cpu.has("avx2") and cpu.has("fma") and cpu.has("f16c")):
        missing = ", ".join(word.upper() for word in ("avx2", "fma", "f16c") if not cpu.has(word))
        yield warned(
            "cpu-features",
            f"{name} has AVX but no {missing}",
            "matrix work takes the slow paths: expect a fraction of the usual speed",
            f"{_HOST_CPU}; else take the smaller models",
        )
    else:
        extra = [
            word
            for word in ("avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
            if cpu.has(word)
        ]
        yield passed("cpu-features", f"{name}: AVX2, FMA, F16C" + "".join(f", {w.upper()}" for w in extra))


def check_cores(machine: Machine, facts: LaunchFacts) -> Iterator[Check]:
    """Judge how many compute threads there may be, and who competes."""
    cpu = machine.cpu
    parts = [f"{cpu.usable_cores} usable of {cpu.physical_cores or cpu.logical_cpus or 'unknown'} cores"]
    if cpu.efficiency_cores:
        parts.append(f"{cpu.efficiency_cores} efficiency cores left out")
    if cpu.cpuset is not None and cpu.logical_cpus is not None and cpu.cpuset < cpu.logical_cpus:
        parts.append(f"this process may run on {cpu.cpuset} of {cpu.logical_cpus} CPUs")
    if cpu.quota is not None:
        parts.append(f"the cgroup grants {cpu.quota:g} CPUs")
    finding = ", ".join(parts)
    if cpu.quota is not None and cpu.quota < 1:
        yield warned(
            "cores",
            finding,
            "even one compute thread will be stopped for a part of every tenth of a second",
            "grant the container at least one CPU (docker run --cpus 2, Kubernetes limits.cpu)",
        )
    else:
        yield passed("cores", finding)
    if machine.load is not None and machine.load > cpu.usable_cores:
        yield warned(
            "load",
            f"load {machine.load:.1f} on {cpu.usable_cores} usable cores",
            "other programs compete for the cores: answers are slower and measurements worthless",
            "stop what else is running before tune and bench",
        )


def check_memory(machine: Machine, facts: LaunchFacts) -> Iterator[Check]:
    """Judge what models may take."""
    memory = machine.memory
    usable = memory.usable
    if usable is None:
        yield warned(
            "memory",
            "nothing tells the available memory",
            "plans cannot be checked against it",
            "give the limit yourself: recommend --max-memory",
        )
        return
    finding = f"{gib(usable)} usable of {gib(memory.total)}"
    if memory.cgroup_limit is not None:
        finding += f", the cgroup's limit is {gib(memory.cgroup_limit)}"
    advice = "close other programs, or give the container or virtual machine more"
    if usable < _LEAST_MEMORY:
        yield failed("memory", finding, "not even the smallest embedding model fits", advice)
    elif usable < _COMFORTABLE_MEMORY:
        yield warned("memory", finding, "only the smallest models fit", advice)
    else:
        yield passed("memory", finding)


def check_gpus(machine: Machine, facts: LaunchFacts) -> Iterator[Check]:
    """Judge each GPU, and what hides it."""
    if not machine.gpus:
        yield passed("gpu", "none found; models run on the processor")
    for gpu in machine.gpus:
        free = machine.memory_of(gpu)
        size = "shares main memory" if gpu.unified else f"{gib(free)} free of {gib(gpu.memory_total)}"
        finding = f"{gpu.name}: {size}"
        if gpu.backend is not None:
            yield passed("gpu", f"{finding}, --gpu {gpu.backend}")
        else:
            yield warned("gpu", f"{finding}, not usable", "models run on the processor", _fix(gpu, machine))
    if facts.gpu_nodes_denied:
        yield warned(
            "gpu-access",
            f"this user may not open {', '.join(facts.gpu_nodes_denied)}",
            "engines fall back to the processor in silence",
            "join the groups that own them (usually render and video): sudo usermod -aG render,video $USER",
        )
    for name, value in facts.gpu_variables:
        shown = value or "empty"
        yield warned(
            "gpu-variables",
            f"{name} is set ({shown})",
            "engines see only the GPUs that it names, whatever a plan says",
            f"unset {name} unless you mean it",
        )


def _fix(gpu: Gpu, machine: Machine) -> str:
    vendor = find_vendor(gpu.vendor)
    if machine.container:
        options = vendor.container if vendor is not None else "--device /dev/dri"
        return f"pass it into the container (docker run {options})"
    return vendor.fix if vendor is not None else NO_SUPPORT
