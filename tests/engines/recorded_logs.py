"""What engines printed, and what is to be read in it. Where nothing else is said, the lines are as published.

Each entry names its source. The CPU lines were recorded here; no computer with a GPU was at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 1 << 20


@dataclass(frozen=True)
class Recording:
    """A log, and what is to be read in it: GPUs, ``gpu`` (None: nothing tells), and numbers."""

    source: str
    text: str
    devices: tuple[str, ...] = ()
    gpu: bool | None = None
    layers: tuple[int, int] | None = None
    batch: int | None = None
    slots: int | None = None
    context: int | None = None
    weights: dict[str, float] = field(default_factory=dict)
    cause: str | None = None


RECORDINGS = {
    "cuda-2024": Recording(
        "github.com/ollama/ollama/issues/2266",
        """\
llm_load_tensors: offloading 32 repeating layers to GPU
llm_load_tensors: offloading non-repeating layers to GPU
llm_load_tensors: offloaded 33/33 layers to GPU
llm_load_tensors:        CPU buffer size =    70.31 MiB
llm_load_tensors:      CUDA0 buffer size =  4695.56 MiB
llm_load_tensors:      CUDA1 buffer size =  3912.97 MiB
""",
        devices=("CUDA0", "CUDA1"),
        gpu=True,
        layers=(33, 33),
        weights={"CPU": 70.31, "CUDA0": 4695.56, "CUDA1": 3912.97},
    ),
    "cuda-unused-2024": Recording(
        "github.com/ggml-org/llama.cpp/issues/6787: a CUDA build on an H800 that computes on the processor",
        """\
ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA H800, compute capability 9.0, VMM: yes
llm_load_tensors: offloading 0 repeating layers to GPU
llm_load_tensors: offloaded 0/33 layers to GPU
llm_load_tensors:        CPU buffer size =  5459.93 MiB
llama_new_context_with_model: n_ctx      = 512
llama_new_context_with_model: n_batch    = 512
llama_new_context_with_model: n_ubatch   = 512
""",
        gpu=False,
        layers=(0, 33),
        batch=512,
        weights={"CPU": 5459.93},
    ),
    "cuda-2026": Recording(
        "github.com/ollama/ollama/pull/16031: a llama-server with two GPUs",
        """\
load_tensors: loading model tensors, this can take a while... (mmap = false, direct_io = false)
load_tensors: offloading output layer to GPU
load_tensors: offloading 35 repeating layers to GPU
load_tensors: offloaded 37/37 layers to GPU
load_tensors:          CPU model buffer size =   304.28 MiB
load_tensors:        CUDA0 model buffer size =   974.88 MiB
load_tensors:        CUDA1 model buffer size =  1401.03 MiB
llama_context: constructing llama_context
llama_context: n_seq_max     = 1
llama_context: n_ctx         = 262144
llama_context: n_ctx_seq     = 262144
llama_context: n_batch       = 2048
llama_context: n_ubatch      = 2048
""",
        devices=("CUDA0", "CUDA1"),
        gpu=True,
        layers=(37, 37),
        batch=2048,
        weights={"CPU": 304.28, "CUDA0": 974.88, "CUDA1": 1401.03},
    ),
    "cuda-that-does-not-start": Recording(
        "llama.cpp's ggml/src/ggml-cuda/ggml-cuda.cu and common/arg.cpp (llama-cpp-python 0.3.36), with the "
        "text that reports of containers with a lost GPU give; the buffer as recorded here",
        """\
ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected
warning: no usable GPU found, --gpu-layers option will be ignored
warning: one possible reason is that llama.cpp was compiled without GPU support
0.00.150.298 I load_tensors:   CPU_Mapped model buffer size =    43.48 MiB
""",
        gpu=False,
        weights={"CPU": 43.48},
        cause="CUDA did not start: no CUDA-capable device is detected",
    ),
    "rocm-2024": Recording(
        "github.com/ggml-org/llama.cpp/issues/8164: after -ngl was passed",
        """\
llm_load_tensors: offloading 32 repeating layers to GPU
llm_load_tensors: offloading non-repeating layers to GPU
llm_load_tensors: offloaded 33/33 layers to GPU
llm_load_tensors:      ROCm0 buffer size =  7605.33 MiB
llm_load_tensors:        CPU buffer size =   532.31 MiB
""",
        devices=("ROCm0",),
        gpu=True,
        layers=(33, 33),
        weights={"ROCm0": 7605.33, "CPU": 532.31},
    ),
    "rocm-unused-2024": Recording(
        "github.com/ggml-org/llama.cpp/issues/8164: before, on a Radeon Instinct MI50",
        """\
llm_load_tensors: offloading 0 repeating layers to GPU
llm_load_tensors: offloaded 0/33 layers to GPU
llm_load_tensors:        CPU buffer size =  8137.64 MiB
""",
        gpu=False,
        layers=(0, 33),
        weights={"CPU": 8137.64},
    ),
    "rocm-2026": Recording(
        "a published guide to llama-server with EmbeddingGemma on an Instinct MI355X, at -lv 5",
        """\
llama_prepare_model_devices: using device ROCm0 (AMD Instinct MI355X) (0001:dc:00.0) - 294310 MiB free
load_tensors: offloaded 25/25 layers to GPU
load_tensors:   CPU_Mapped model buffer size =   204.00 MiB
load_tensors:        ROCm0 model buffer size =   311.97 MiB
""",
        devices=("ROCm0",),
        gpu=True,
        layers=(25, 25),
        weights={"CPU": 204.0, "ROCm0": 311.97},
    ),
    "vulkan-2024": Recording(
        "llama.cpp's own CI (github.com/ggml-org/ci), bge-small in F16",
        """\
ggml_vulkan: Compiling shaders...................................................Done!
0.00.296.415 I llm_load_tensors: offloading 12 repeating layers to GPU
0.00.296.423 I llm_load_tensors: offloading output layer to GPU
0.00.296.423 I llm_load_tensors: offloaded 13/13 layers to GPU
0.00.296.429 I llm_load_tensors:      Vulkan0 model buffer size =    40.73 MiB
0.00.296.430 I llm_load_tensors:   CPU_Mapped model buffer size =    23.11 MiB
0.00.306.489 I llama_new_context_with_model: n_seq_max     = 1
0.00.306.494 I llama_new_context_with_model: n_ctx         = 512
0.00.306.494 I llama_new_context_with_model: n_ctx_per_seq = 512
0.00.306.494 I llama_new_context_with_model: n_batch       = 2048
0.00.306.495 I llama_new_context_with_model: n_ubatch      = 2048
0.00.309.443 I llama_kv_cache_init:    Vulkan0 KV buffer size =     9.00 MiB
""",
        devices=("Vulkan0",),
        gpu=True,
        layers=(13, 13),
        batch=2048,
        weights={"Vulkan0": 40.73, "CPU": 23.11},
    ),
    "vulkan-unused-2025": Recording(
        "github.com/ggml-org/llama.cpp/issues/11367; ggml_vulkan's line from its source, the buffer made up",
        """\
ggml_vulkan: No devices found.
load_tensors: offloaded 0/36 layers to GPU
load_tensors:   CPU_Mapped model buffer size =  3891.24 MiB
""",
        gpu=False,
        layers=(0, 36),
        weights={"CPU": 3891.24},
        cause="Vulkan finds no device",
    ),
    "vulkan-a-third-in-main-memory": Recording(
        "a published note on a model of 73 GiB on a Ryzen AI Max: all layers offloaded, a third of it not",
        """\
load_tensors: offloading output layer to GPU
load_tensors: offloading 47 repeating layers to GPU
load_tensors: offloaded 49/49 layers to GPU
load_tensors:      Vulkan0 model buffer size = 47322.20 MiB
load_tensors:  Vulkan_Host model buffer size =   416.80 MiB
load_tensors:   CPU_Mapped model buffer size = 27465.95 MiB
""",
        devices=("Vulkan0",),
        gpu=True,
        layers=(49, 49),
        weights={"Vulkan0": 47322.2, "Vulkan_Host": 416.8, "CPU": 27465.95},
    ),
    "metal-2024": Recording(
        "llama.cpp's own CI (github.com/ggml-org/ci), bge-small in F16 on an Apple M4",
        """\
0.00.016.287 I llama_load_model_from_file: using device Metal (Apple M4) - 10922 MiB free
0.00.034.916 I llm_load_tensors: offloading 12 repeating layers to GPU
0.00.034.917 I llm_load_tensors: offloading output layer to GPU
0.00.034.918 I llm_load_tensors: offloaded 13/13 layers to GPU
0.00.034.942 I llm_load_tensors: Metal_Mapped model buffer size =    40.73 MiB
0.00.034.944 I llm_load_tensors:   CPU_Mapped model buffer size =    23.11 MiB
0.00.035.503 I llama_new_context_with_model: n_ubatch      = 2048
0.00.051.373 I llama_kv_cache_init:      Metal KV buffer size =     9.00 MiB
""",
        devices=("Metal",),
        gpu=True,
        layers=(13, 13),
        batch=2048,
        weights={"Metal": 40.73, "CPU": 23.11},
    ),
    "metal-2026": Recording(
        "github.com/ollama/ollama, the tests of its llama-server runner",
        """\
load_tensors:  MTL0_Mapped model buffer size =  1918.35 MiB
llama_kv_cache:       MTL0 KV buffer size =   448.00 MiB
sched_reserve:       MTL0 compute buffer size =   256.50 MiB
sched_reserve:        CPU compute buffer size =    20.01 MiB
""",
        devices=("MTL0",),
        gpu=True,
        weights={"MTL0": 1918.35},
    ),
    "llamafile-0.9-without-gpu": Recording(
        "llamafile 0.9.3, llamafile/gpu.c; the buffer as published for llama.cpp of that time",
        """\
warning: --n-gpu-layers 999 was passed but no GPUs were found; falling back to CPU inference
llm_load_tensors:        CPU buffer size =  5459.93 MiB
""",
        gpu=False,
        weights={"CPU": 5459.93},
        cause="the engine found no GPU, and computes on the processor",
    ),
    "cpu-2024": Recording(
        "recorded here: a random llama on the server of llama-cpp-python 0.2.68, -c 512 -np 2",
        """\
llm_load_tensors:        CPU buffer size =     0.42 MiB
llama_new_context_with_model: n_ctx      = 512
llama_new_context_with_model: n_batch    = 512
llama_new_context_with_model: n_ubatch   = 512
llama_kv_cache_init:        CPU KV buffer size =     0.13 MiB
{"level":"INFO","function":"init","line":708,"msg":"initializing slots","n_slots":2}
{"level":"INFO","function":"init","line":717,"msg":"new slot","id_slot":0,"n_ctx_slot":256}
""",
        gpu=False,
        batch=512,
        slots=2,
        context=256,
        weights={"CPU": 0.42},
    ),
    "cpu-2026": Recording(
        "recorded here: MiniLM on the wheel (xllamacpp 2026.10.11549) at -lv 4",
        """\
0.00.148.940 I load_tensors: loading model tensors, this can take a while... (load_mode = mmap)
0.00.150.298 I load_tensors:   CPU_Mapped model buffer size =    43.48 MiB
0.00.151.430 I llama_context: n_seq_max             = 4
0.00.151.446 I llama_context: n_ctx                 = 2048
0.00.151.457 I llama_context: n_ctx_seq             = 512
0.00.151.467 I llama_context: n_batch               = 512
0.00.151.476 I llama_context: n_ubatch              = 512
0.00.152.343 I sched_reserve:        CPU compute buffer size =     7.27 MiB
0.00.156.303 I srv    load_model: initializing, n_slots = 4, n_ctx_slot = 512, kv_unified = 'false'
0.00.156.356 I slot   load_model: id  0 | task -1 | new slot, n_ctx = 512
""",
        gpu=False,
        batch=512,
        slots=4,
        context=512,
        weights={"CPU": 43.48},
    ),
    "cpu-2026-quiet": Recording(
        "recorded here: the same at the usual verbosity, which says nothing of devices",
        """\
0.00.136.893 I cmn          init: llama threadpool init, n_threads = 1
0.00.140.988 I srv    load_model: initializing, n_slots = 4, n_ctx_slot = 512, kv_unified = 'false'
""",
        slots=4,
        context=512,
    ),
}
