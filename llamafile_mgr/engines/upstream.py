"""llama.cpp's own HTTP server, in whatever program it comes.

Flags: llama.cpp's ``tools/server/README.md``. An ``--embedding`` server answers embeddings only. With
explicit slots the context is divided among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from llamafile_mgr.catalog import Role
from llamafile_mgr.engine_settings import CACHE_TYPES
from llamafile_mgr.engines.engine_args import ExtraFlag, parse_flag_table
from llamafile_mgr.engines.engine_features import Adapter, Features
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.launch_settings import LaunchSettings, given, gpu_flags, name_flags
from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors, json_request
from llamafile_mgr.engines.replies import read_openai_vectors
from llamafile_mgr.machine.hardware import Cpu

_REPACKED = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})
_REPACKED_BY_ARM = _REPACKED | {"Q5_K", "Q6_K", "Q8_0"}
#: ``engine_args`` (llama.cpp b11100, ``tools/server/README.md``): nothing here names a file or an address.
_EXTRA_FLAGS = parse_flag_table("""
    -tb --threads-batch int
    -C --cpu-mask text
    -Cr --cpu-range text
    --cpu-strict int
    --prio int
    --poll int
    -Cb --cpu-mask-batch text
    -Crb --cpu-range-batch text
    --prio-batch int
    --poll-batch int
    --numa text
    -fa --flash-attn text
    -kvo --kv-offload
    -nkvo --no-kv-offload
    --repack
    -nr --no-repack
    --no-host
    -lm --load-mode text
    -lzm --lazy-mode text
    --mlock
    --no-mmap
    -dev --device text
    -ot --override-tensor text
    -cmoe --cpu-moe
    -ncmoe --n-cpu-moe int
    -ncffn --n-cpu-ffn int
    -ngl --gpu-layers --n-gpu-layers text
    -sm --split-mode text
    -ts --tensor-split text
    -mg --main-gpu int
    -fit --fit text
    -fitt --fit-target text
    -fitc --fit-ctx int
    --check-tensors
    --override-kv text !
    --op-offload
    --no-op-offload
    --swa-full
    --perf
    --no-perf
    --warmup
    --no-warmup
    -n --predict --n-predict int
    --keep int
    --samplers text
    --seed int
    --sampler-seq --sampling-seq text
    --ignore-eos
    --temp --temperature float
    --top-k int
    --top-p float
    --min-p float
    --top-nsigma --top-n-sigma float
    --xtc-probability float
    --xtc-threshold float
    --typical --typical-p float
    --repeat-last-n int
    --repeat-penalty float
    --presence-penalty float
    --frequency-penalty float
    --dry-multiplier float
    --dry-base float
    --dry-allowed-length int
    --dry-penalty-last-n int
    --dry-sequence-breaker text
    --adaptive-target float
    --adaptive-decay float
    --dynatemp-range float
    --dynatemp-exp float
    --mirostat int
    --mirostat-lr float
    --mirostat-ent float
    --logit-bias text
    --grammar text
    -j --json-schema text
    -bs --backend-sampling
    -sp --special
    --spm-infill
    -r --reverse-prompt text
    -kvu --kv-unified
    -no-kvu --no-kv-unified
    --kv-unified-per-slot int
    -cram --cache-ram int
    --cache-idle-slots
    --no-cache-idle-slots
    --cache-prompt
    --no-cache-prompt
    --cache-reuse int
    --context-shift
    --no-context-shift
    -ctxcp --ctx-checkpoints --swa-checkpoints int
    -cms --checkpoint-min-step int
    -cb --cont-batching
    -nocb --no-cont-batching
    -sps --slot-prompt-similarity float
    --mmproj-offload
    --no-mmproj-offload
    -mmdev --mmproj-device text
    --image-min-tokens int
    --image-max-tokens int
    --mtmd-batch-max-tokens int
    --chat-template-kwargs text
    --reasoning-format text
    -rea --reasoning text
    --reasoning-effort text
    --reasoning-budget-message text
    --reasoning-preserve
    --no-reasoning-preserve
    --skip-chat-parsing
    --no-skip-chat-parsing
    --prefill-assistant
    --no-prefill-assistant
    --spec-type text
    --spec-draft-n-max int
    --spec-draft-n-min int
    --spec-draft-p-min --draft-p-min float
    --spec-draft-p-split --draft-p-split float
    --spec-draft-type-k -ctkd --cache-type-k-draft text
    --spec-draft-type-v -ctvd --cache-type-v-draft text
    --spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft text
    --spec-draft-device -devd --device-draft text
    --spec-draft-threads -td --threads-draft int
    --spec-draft-threads-batch -tbd --threads-batch-draft int
    --spec-ngram-simple-size-n int
    --spec-ngram-simple-size-m int
    --spec-ngram-simple-min-hits int
    --spec-ngram-mod-n-match int
    --spec-ngram-mod-n-min int
    --spec-ngram-mod-n-max int
""")
#: With Jinja on, as it is by default, this is the only built-in template that is known by its name: any other
#: name would itself be taken for a template, and be the whole prompt of every chat.
_JINJA_TEMPLATE = "chatml"


class UpstreamServer(EngineFamily):
    """What programs with llama.cpp's server have in common."""

    #: Flags of llamafiles before 0.10, which a file's own ``.args`` may hold.
    refused_flags = frozenset(
        {
            *("-l", "--listen", "--v2", "--nobrowser", "--fast", "--precise", "--trap"),
            *("--recompile", "--nocompile", "--tinyblas"),
        }
    )
    #: Words of 2026: ``common/arg.cpp``, ``common/fit.cpp``, ``tools/server/server-context.cpp`` and
    #: ``ggml/src/ggml-vulkan`` of llama-cpp-python 0.3.36, beside those of May 2024.
    log_words = replace(
        EngineFamily.log_words,
        context=re.compile(r"\bn_ctx_slot\"?\s*[=:]\s*(\d{1,9})|new slot, n_ctx = (\d{1,9})"),
        causes=(
            *EngineFamily.log_words.causes,
            (
                re.compile(r"no usable GPU found"),
                "the engine was built without GPU support, or the library of its GPU code does not load",
            ),
            (re.compile(r"ggml_vulkan: No devices found"), "Vulkan finds no device"),
            (re.compile(r"failed to fit params to free device memory: (.+)"), "{0}"),
            (re.compile(r"(the slot context .* exceeds the training context of the model \(\d+\))"), "{0}"),
        ),
    )
    feature_flags: ClassVar = {
        "mmproj": "--mmproj",
        "lora": "--lora-scaled",
        "draft": "--model-draft",
        "cache_type_k": "--cache-type-k",
        "cache_type_v": "--cache-type-v",
        "rope_scaling": "--rope-scaling",
        "rope_freq_base": "--rope-freq-base",
        "rope_freq_scale": "--rope-freq-scale",
        "yarn_orig_ctx": "--yarn-orig-ctx",
        "yarn_ext_factor": "--yarn-ext-factor",
        "yarn_attn_factor": "--yarn-attn-factor",
        "yarn_beta_fast": "--yarn-beta-fast",
        "yarn_beta_slow": "--yarn-beta-slow",
        "chat_template": "--chat-template",
        "chat_template_file": "--chat-template-file",
        "reasoning_budget": "--reasoning-budget",
    }
    cache_types = frozenset(CACHE_TYPES)
    takes_flash_attention = True
    takes_batch_threads = True
    keeps_conversations = True
    vector_space = "v10"
    max_texts = 2048
    tells_token_texts = True
    #: What makes the program a server.
    serving: tuple[str, ...] = ("--server",)

    def placing(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags that say where to compute."""
        return gpu_flags(settings)

    def arguments(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags after the program's name."""
        context, batch, flash = settings.context * settings.slots, settings.batch, settings.flash_attention
        return (
            *self.serving,
            *("--host", settings.host, "--port", str(settings.port)),
            *given("-m", settings.model),
            *("-c", str(context), "-np", str(settings.slots), "-t", str(settings.threads)),
            *given("-tb", settings.batch_threads),
            *given("-b", batch),
            *given("-ub", batch),
            *_role_flags(settings),
            *given("-fa", None if flash is None else "on" if flash else "off"),
            *given("--cache-ram", settings.prompt_cache_mib),
            *self.placing(settings),
            *name_flags(settings),
            "--no-webui",
        )

    @property
    def extra_flags(self) -> Mapping[str, ExtraFlag]:
        """Return what ``engine_args`` may hold."""
        return _EXTRA_FLAGS

    def feature_words(self, features: Features) -> tuple[str, ...]:
        """Return the flags of ``features``.

        A draft model alone is loaded and never asked: ``--spec-type`` says that it drafts (llama.cpp 22673).
        """
        words = [*super().feature_words(features)]
        if features.lora:
            words[words.index("--lora-scaled") + 1] = ",".join(map(_scaled, features.lora))
        if features.draft is not None:
            words += ["--spec-type", "draft-simple"]
        if features.chat_template not in (None, _JINJA_TEMPLATE):
            words.append("--no-jinja")
        return tuple(words)

    def embed(self, texts: Sequence[str]) -> EngineRequest:
        """Return the OpenAI request, vectors as base64: half the bytes of numbers and no parsing."""
        return json_request("/v1/embeddings", {"input": list(texts), "encoding_format": "base64"})

    def read_vectors(self, reply: EngineReply, count: int) -> EngineVectors:
        """Return the vectors of an OpenAI-shaped reply. Raises EngineError."""
        return read_openai_vectors(reply, count)


def repacked_on(cpu: Cpu) -> frozenset[str]:
    """Return the types of tensors of which llama.cpp keeps a copy in a layout that suits this processor.

    Source: ``ggml/src/ggml-cpu/repack.cpp`` of llama-cpp-python 0.3.36.
    """
    return _REPACKED_BY_ARM if cpu.has("neon") else _REPACKED


def _role_flags(settings: LaunchSettings) -> tuple[str, ...]:
    if settings.role is Role.EMBED:
        return ("--embedding", *given("--pooling", settings.pooling and settings.pooling.value))
    return ("--rerank", "--pooling", "rank") if settings.role is Role.RERANK else ()


def _scaled(adapter: Adapter) -> str:
    return f"{adapter.path}:{adapter.scale:.9g}"
