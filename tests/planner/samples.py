"""Models, machines and toolboxes that the planner's tests plan for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llamafile_mgr.catalog import Role, load_catalog
from llamafile_mgr.engines.arguments import EmbeddedArguments
from llamafile_mgr.engines.toolbox import InstalledRuntime, Toolbox
from llamafile_mgr.llamafile import Family, FileFacts, FileKind, GgufFacts, Weights
from llamafile_mgr.machine import Cpu, Gpu, Machine, System
from llamafile_mgr.machine.hardware import Memory
from llamafile_mgr.planner.model_specs import ModelSpec

GB = 10**9
CUDA = ("ggml-cuda.so", "ggml-vulkan.so")
RUNTIME = InstalledRuntime("llamafile-0.10.5", Path("/rt/0.10.5"), "0.10.5", CUDA, GB // 3)
NEWER = InstalledRuntime("llamafile-0.10.6", Path("/rt/0.10.6"), "0.10.6", CUDA, GB // 3)
THIN = InstalledRuntime("llamafile-0.10.5-thin", Path("/rt/thin"), "0.10.5", (), 42_328_074)
OLD = InstalledRuntime("llamafile-0.9.3", Path("/rt/0.9.3"), "0.9.3")

EMBEDDED_ONLY = Toolbox((), Path("/py"), Path("/pkg"), Path("/home"), Path("/home/tmp"))
NOTHING = replace(EMBEDDED_ONLY, python=None)


def with_runtimes(*runtimes: InstalledRuntime, python: bool = False) -> Toolbox:
    return replace(EMBEDDED_ONLY if python else NOTHING, runtimes=runtimes)


# --- models --------------------------------------------------------------------------------------


def gguf(**changes: Any) -> GgufFacts:
    """A BERT like mxbai-embed-large-v1 whose tokenizer is not told, with changes."""
    values: dict[str, Any] = dict.fromkeys(GgufFacts.__dataclass_fields__)
    values |= {"version": 3, "architecture": "bert", "context_length": 512, "embedding_length": 1024}
    values |= {"pooling": "cls", "causal": False, "has_chat_template": False, "quantisation": "F16"}
    values |= {"parameters": 335_000_000, "tensor_bytes": 670_000_000, "tensor_count": 391}
    values |= {"block_count": 24, "head_count": 16, "feed_forward_length": 4096, "vocab_size": 30522}
    return GgufFacts(**(values | changes))


BERT_LARGE = gguf()
#: With the tokenizer that it really has, on which engines before 0.10 fail.
WORD_PIECES = gguf(tokenizer_model="bert")
MINILM = gguf(
    embedding_length=384,
    block_count=6,
    head_count=12,
    feed_forward_length=1536,
    parameters=22_565_376,
    tensor_bytes=45_586_944,
    pooling="mean",
    add_eos=True,
)
BGE_M3 = gguf(context_length=8192, vocab_size=250_002, parameters=568_000_000)
MISTRAL = gguf(
    architecture="llama",
    causal=None,
    pooling=None,
    context_length=32768,
    embedding_length=4096,
    block_count=32,
    head_count=32,
    head_count_kv=8,
    feed_forward_length=14336,
    vocab_size=32000,
    parameters=7_110_000_000,
)
LLAMA_1B = replace(
    MISTRAL,
    context_length=131072,
    embedding_length=2048,
    block_count=16,
    feed_forward_length=8192,
    vocab_size=128_256,
    parameters=1_240_000_000,
)
QWEN_08B = replace(
    LLAMA_1B, context_length=262144, embedding_length=1024, head_count=16, head_count_kv=4, vocab_size=248_320
)
OSS_20B = replace(
    MISTRAL, embedding_length=2880, block_count=24, head_count=64, key_length=64, value_length=64
)
QWEN_EMBED = replace(QWEN_08B, pooling="last", context_length=32768, vocab_size=151_669)


def subject(
    name: str = "mxbai-embed-large-v1",
    role: Role = Role.EMBED,
    kind: FileKind = FileKind.LLAMAFILE,
    family: Family | None = Family.V1,
    version: str | None = "0.8.4",
    header: GgufFacts | None = None,
    size: int = GB,
    arguments: tuple[str, ...] = (),
    modules: tuple[str, ...] = CUDA,
    ggufs: int = 1,
) -> ModelSpec:
    """A model on the disk; ``size`` is that of its weights and, nearly, of the file."""
    weights = () if kind is FileKind.RUNTIME else (Weights("m.gguf", 0, size, header or gguf()),) * ggufs
    facts = FileFacts(
        Path("/f"),
        size,
        kind,
        version,
        family,
        weights,
        arguments=EmbeddedArguments("", None, arguments) if arguments else None,
        gpu_modules=modules,
    )
    return ModelSpec(name, role, Path("/f"), facts, load_catalog().models.get(name))


def weights(name: str, header: GgufFacts, size: int, role: Role = Role.EMBED) -> ModelSpec:
    """A bare GGUF."""
    return subject(name, role, FileKind.WEIGHTS, None, None, header, size)


minilm = weights("all-minilm-l6-v2", MINILM, 46_220_384)
mxbai = subject(size=699_000_000)
mxbai_gguf = weights("mxbai-embed-large-v1", BERT_LARGE, 670_000_000)
e5 = subject("e5-mistral-7b-instruct", header=MISTRAL, size=5_160_000_000)
sfr = subject("sfr-embedding-mistral", header=MISTRAL, size=14_500_000_000)
sfr_gguf = weights("sfr-embedding-mistral", replace(MISTRAL, quantisation="Q4_K_M"), 4_368_439_008)
bge_m3 = weights("bge-m3", BGE_M3, 1_150_000_000)
qwen_embed = weights("qwen3-embedding", QWEN_EMBED, 640_000_000)
llama_1b = subject("llama-3.2-1b", Role.GENERATE, version="0.9.3", header=LLAMA_1B, size=1_110_000_000)
qwen = subject(
    "qwen3.5-0.8b", Role.GENERATE, family=Family.V10, version="0.10.5", header=QWEN_08B, size=1_770_000_000
)
qwen_106 = subject(
    "qwen3.5-0.8b", Role.GENERATE, family=Family.V10, version="0.10.6", header=QWEN_08B, size=1_770_000_000
)
mistral = weights("mistral-7b", MISTRAL, 4_420_000_000, Role.GENERATE)
mistral_v1 = subject("mistral-7b", Role.GENERATE, version="0.9.2", header=MISTRAL, size=4_420_000_000)
oss = subject(
    "gpt-oss-20b", Role.GENERATE, family=Family.V10, version="0.10.5", header=OSS_20B, size=12_000_000_000
)

# --- machines ------------------------------------------------------------------------------------


def _nvidia(name: str, total: int, index: int = 0) -> Gpu:
    return Gpu("nvidia", name, index, total, total * 95 // 100, backend="nvidia")


def _linux(cores: int, memory: int, architecture: str = "x86_64", **changes: Any) -> Machine:
    features = ("avx", "avx2", "f16c", "ssse3") if architecture == "x86_64" else ("neon",)
    machine = Machine(
        System.LINUX,
        architecture=architecture,
        cpu=Cpu(physical_cores=cores, logical_cpus=2 * cores, features=features),
        memory=Memory(total=memory, available=memory * 3 // 4),
    )
    return replace(machine, **changes)


LAPTOP_8GB = _linux(4, 8 * GB)
DESKTOP_32GB = _linux(8, 32 * GB)
BUSY_8GB = replace(LAPTOP_8GB, memory=Memory(total=8 * GB, available=1 * GB))
CONTAINER_4GB = replace(
    _linux(32, 256 * GB),
    cpu=Cpu(physical_cores=32, logical_cpus=64, quota=2.0, features=("avx", "avx2")),
    memory=Memory(total=256 * GB, available=200 * GB, cgroup_limit=4 * GB, cgroup_usage=GB // 10),
    container="docker",
)
GPU_24GB = _linux(8, 64 * GB, gpus=(_nvidia("RTX 4090", 24 * GB),))
GPU_4GB = _linux(8, 32 * GB, gpus=(_nvidia("GTX 1650", 4 * GB),))
TWO_GPUS = _linux(16, 64 * GB, gpus=(_nvidia("RTX 3060", 12 * GB), _nvidia("RTX 4090", 24 * GB, 1)))
TWO_SMALL_GPUS = _linux(16, 64 * GB, gpus=(_nvidia("RTX 3060", 12 * GB), _nvidia("RTX 3060", 12 * GB, 1)))
AMD_GPU = _linux(8, 32 * GB, gpus=(Gpu("amd", "RX 7900", 0, 20 * GB, 19 * GB, backend="amd"),))
INTEL_IGPU = _linux(4, 16 * GB, gpus=(Gpu("intel", "Iris Xe", 0, 8 * GB, unified=True, backend="vulkan"),))
UNUSABLE_GPU = _linux(4, 16 * GB, gpus=(Gpu("other", "ancient", 0, GB, GB),))
MAC_16GB = Machine(
    System.MACOS,
    architecture="arm64",
    cpu=Cpu(physical_cores=4, logical_cpus=8, efficiency_cores=4, features=("neon",)),
    memory=Memory(total=16 * GB, available=10 * GB),
    gpus=(Gpu("apple", "Apple M1", 0, 11 * GB, unified=True, backend="apple"),),
)
NO_AVX = replace(LAPTOP_8GB, cpu=Cpu(physical_cores=2, logical_cpus=4, features=("sse4_1", "ssse3")))
WSL = replace(GPU_24GB, wsl=2)
RASPBERRY = _linux(4, 8 * GB, "arm64")
RASPBERRY_1GB = _linux(4, GB, "arm64")
RASPBERRY_32BIT = _linux(4, 2 * GB, "armv7l")
SERVER_192 = _linux(192, 768 * GB)
RISCV = _linux(8, 16 * GB, "riscv64")
WINDOWS = replace(_linux(8, 32 * GB), system=System.WINDOWS)
WINDOWS_GPU = replace(GPU_24GB, system=System.WINDOWS)
WINDOWS_ARM = replace(_linux(8, 16 * GB, "arm64"), system=System.WINDOWS)
UNKNOWN = Machine(System.OTHER)
TWO_CORES = _linux(2, 24 * GB)
