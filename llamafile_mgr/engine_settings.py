"""What the settings of one model may ask of its engine beyond sizes: adapters, rotary positions, types."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llamafile_mgr.errors import ConfigError

#: Types of a key/value cache in llama.cpp's words (``common/arg.cpp``, ``kv_cache_types``).
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
#: Built-in chat templates (llama.cpp b11100, ``src/llama-chat.cpp``); older engines have some of them.
_TEMPLATES = """
    chatml llama2 llama2-sys llama2-sys-bos llama2-sys-strip mistral-v1 mistral-v3 mistral-v3-tekken
    mistral-v7 mistral-v7-tekken phi3 phi4 falcon3 zephyr monarch gemma orion openchat vicuna
    vicuna-orca deepseek deepseek2 deepseek3 deepseek-ocr command-r llama3 chatglm3 chatglm4 glmedge
    minicpm exaone3 exaone4 exaone-moe rwkv-world granite granite-4.0 granite-4.1 gigachat megrez
    yandex bailing bailing-think bailing2 llama4 smolvlm hunyuan-moe gpt-oss hunyuan-dense
    hunyuan-vl kimi-k2 seed_oss grok-2 pangu-embedded solar-open
"""
CHAT_TEMPLATES = tuple(_TEMPLATES.split())
_SCALINGS = ("none", "linear")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """An adapter, as ``lora = ["NAME"]`` or as a table. ``file``: a name of the store, a path or a source as
    ``pull`` takes it. ``scale``: how strongly it counts."""

    file: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.file:
            raise ConfigError("models.*.lora names no file")
        if not math.isfinite(self.scale):
            raise ConfigError(f"models.*.lora: the scale of {self.file} is no number")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """``rope``: rotary positions. ``scaling``: ``none`` or ``linear``. ``scale``: by how much they are
    stretched. ``freq_base``: their base frequency."""

    scaling: str | None = None
    scale: float | None = None
    freq_base: float | None = None

    def __post_init__(self) -> None:
        if self.scaling not in (None, *_SCALINGS):
            hint = "yarn is a key of its own: yarn = {scale = 4.0}" if self.scaling == "yarn" else None
            hint = hint or f"it may be {' or '.join(_SCALINGS)}"
            raise ConfigError(f"models.*.rope.scaling is {self.scaling!r}", hint=hint)
        for name in ("scale", "freq_base"):
            _check_positive(f"rope.{name}", getattr(self, name))


@dataclass(frozen=True, slots=True)
class YarnConfig:
    """``yarn``: a longer context than the model was trained for. ``scale``: how many times as long.
    ``original_context``: tokens it was trained for, where the file does not say. The others are YaRN's own
    (``--yarn-ext-factor`` and so on of llama.cpp)."""

    scale: float
    original_context: int | None = None
    ext_factor: float | None = None
    attn_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None

    def __post_init__(self) -> None:
        _check_positive("yarn.scale", self.scale)
        _check_positive("yarn.original_context", self.original_context)
        for name in ("ext_factor", "attn_factor", "beta_fast", "beta_slow"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ConfigError(f"models.*.yarn.{name} is no number")


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ConfigError(f"models.*.{name} is {value}, and must be above zero")


def is_quantised(cache_type: str) -> bool:
    """Tell whether a cache of this type keeps less than half a float an element."""
    return cache_type not in ("f32", "f16", "bf16")
