"""How much memory an engine will take, from the model's own numbers. Pure; sizes are bytes.

The whole process is predicted: the engine itself, the mapped weights, the key/value cache, the buffers of
one computation, and the results of one batch. Measured here (xllamacpp 2026.10.11549, CPython 3.11, Linux
x86-64): beside model and buffers the embedded engine takes 38 to 42 MiB when generating, and 48 to 67 MiB
when eight connections send embedding requests of 16 and 32 texts, whose vectors it holds as JSON. Requests of
500 texts took it to 140 MiB, and the proxy never sends such. It keeps vocabulary-wide results for every token
of a batch of an embedding model (MiniLM with batches of 512, 1024 and 2048 tokens grew by 59, 116 and 231
MiB). Its own figures for compute buffers of 512 tokens: 7.3 MiB (MiniLM), 18.5 MiB (a BERT of 1,024
dimensions), 38 MiB (a llama of 1,024 dimensions, 4,096 tokens of context), 74 MiB (1,536 dimensions, 32,768
tokens), 82 MiB (the same when it embeds, with 4,096 tokens). The constants of llamafiles and of GPUs are
estimates: neither was run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.llamafile import FileFacts, GgufFacts
from llamafile_mgr.llamafile.ggml_types import TENSOR_TYPES

MIB = 1 << 20
_FLOAT, _HALF = 4, 2
#: What an element of a key/value cache takes, by llama.cpp's word for its type.
_ELEMENT_BYTES = {each.name.lower(): each.block_bytes / each.block_elements for each in TENSOR_TYPES.values()}
#: What a GPU's driver and libraries take of main memory and of the GPU's own, beside the model.
_GPU_HOST, _GPU_BASE = 256 * MIB, 512 * MIB
#: Tokens of a physical batch where the plan leaves it to the engine.
_DEFAULT_BATCH = 512
#: Stand-ins for what a file does not say: those of an 8 billion parameter llama.
_DEFAULT_WIDTH, _DEFAULT_VOCABULARY, _DEFAULT_LAYERS = 4096, 128_256, 32


@dataclass(frozen=True, slots=True)
class MemoryExtras:
    """What settings add to a model. ``cache_types``: of keys and of values. ``fixed``: bytes of adapters and
    of a projector. ``draft``: the header of a draft model and its bytes."""

    cache_types: tuple[str, str] = ("f16", "f16")
    fixed: int = 0
    draft: tuple[GgufFacts, int] | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine is asked to hold at once.

    ``context``: tokens per slot. ``batch``: tokens per physical batch, None for the engine's own.
    ``prompt_cache``: bytes of remembered conversations. ``flash_attention``: False where attention is
    computed in full. ``repacked``: types of tensors that are copied into another layout. ``extras``: what
    settings add.
    """

    role: Role
    family: Family
    context: int
    slots: int
    batch: int | None
    prompt_cache: int = 0
    flash_attention: bool = True
    repacked: frozenset[str] = frozenset()
    extras: MemoryExtras = field(default_factory=MemoryExtras)


@dataclass(frozen=True, slots=True)
class Offload:
    """How much of the model lies on GPUs: ``layers`` of ``of``. ``unified``: their memory is main memory."""

    layers: int
    of: int
    unified: bool = False

    @property
    def share(self) -> float:
        """Return the part of the layers that lies on GPUs, 0 to 1."""
        return min(1.0, self.layers / self.of) if self.of else 0.0


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What one engine takes, in bytes, and all ``replicas`` together.

    ``base``: the program. ``weights``: mapped from the file, so that replicas share them. ``repacked``: an
    engine's own copies of some of them, in a layout that suits the processor. ``kv_cache``,
    ``prompt_cache``: of causal models. ``compute``: buffers of one batch. ``output``: its results.
    ``device``: the part of an engine's total that lies in GPU memory of its own; ``host`` is the rest.
    ``device_weights``: the weights in it. ``beside``: adapters, a projector and a draft model.
    """

    base: int
    weights: int
    kv_cache: int
    compute: int
    output: int
    prompt_cache: int = 0
    device: int = 0
    device_weights: int = 0
    replicas: int = 1
    repacked: int = 0
    beside: int = 0

    @property
    def total(self) -> int:
        """Return what one engine takes, wherever it lies."""
        parts = (self.base, self.weights, self.kv_cache, self.compute, self.output, self.prompt_cache)
        return sum(parts) + self.repacked + self.beside

    @property
    def host(self) -> int:
        """Return what one engine takes of main memory."""
        return self.total - self.device

    @property
    def joint(self) -> int:
        """Return what all replicas need of main memory.

        The mapped weights are there once, and those that were copied need not stay: the system takes their
        pages back when it is short of memory.
        """
        shared = self.weights - self.device_weights
        return self.replicas * (self.host - shared) + max(0, shared - self.repacked)

    @property
    def joint_device(self) -> int:
        """Return what all replicas take of GPU memory."""
        return self.replicas * self.device

    @property
    def everywhere(self) -> int:
        """Return what all replicas take of all memories together."""
        return self.joint + self.joint_device

    def describe(self) -> str:
        """Return the sum in words, without the parts that are nothing."""
        parts = (
            ("weights", self.weights),
            ("their copies for this processor", self.repacked),
            ("key/value cache", self.kv_cache),
            ("compute buffers", self.compute),
            ("results", self.output),
            ("prompt cache", self.prompt_cache),
            ("adapters, projector and draft model", self.beside),
            ("engine", self.base),
        )
        text = " + ".join(f"{name} {format_size(size)}" for name, size in parts if size)
        if self.repacked:
            text += f"; the system may take back {format_size(self.repacked)} of weights that were copied"
        if self.replicas > 1:
            text += f"; {self.replicas} engines share the weights: {format_size(self.joint)}"
        if self.device:
            text += f"; {format_size(self.device)} of it on the GPU"
        return text


def format_size(count: float) -> str:
    """Return bytes in decimal units with three digits, as file sizes are printed."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def cache_bytes_per_token(gguf: GgufFacts, types: tuple[str, str] = ("f16", "f16")) -> int:
    """Return the key/value cache of one token; 0 for a model that looks both ways.

    ``types``: of keys and of values.

    Layers with a sliding window, or with none, count in full: more than they take.
    """
    if gguf.causal is False:
        return 0
    heads = gguf.head_count or 1
    kv_heads = gguf.head_count_kv or heads
    width = (gguf.embedding_length or _DEFAULT_WIDTH) // heads
    keys, values = (_ELEMENT_BYTES[name] for name in types)
    one = (gguf.key_length or width) * keys + (gguf.value_length or width) * values
    return math.ceil((gguf.block_count or _DEFAULT_LAYERS) * kv_heads * one)


def context_bytes(gguf: GgufFacts, load: Load) -> int:
    """Return what grows with the context: the key/value caches of all slots, and the buffers of a batch that
    looks back at all of it; those of a draft model too."""
    grown = _cache_bytes(gguf, load, load.extras.cache_types) + _compute_bytes(gguf, load, _batch_of(load))
    if load.extras.draft is None:
        return grown
    draft, _ = load.extras.draft
    return grown + _cache_bytes(draft, load) + _compute_bytes(draft, load, _batch_of(load))


def _cache_bytes(gguf: GgufFacts, load: Load, types: tuple[str, str] = ("f16", "f16")) -> int:
    return cache_bytes_per_token(gguf, types) * load.context * load.slots


def predict_memory(
    facts: FileFacts, load: Load, *, replicas: int = 1, offload: Offload | None = None
) -> MemoryEstimate:
    """Return what engines of this file take under this load."""
    model, rules = facts.model, family_rules(load.family)
    gguf = model.gguf if model is not None else None
    if gguf is None:
        return MemoryEstimate(rules.base_bytes, 0, 0, 0, 0, replicas=replicas)
    batch = _batch_of(load)
    weights = weights_bytes(facts)
    cache = _cache_bytes(gguf, load, load.extras.cache_types)
    compute = _compute_bytes(gguf, load, batch)
    output = _output_bytes(gguf, load, batch)
    beside = _beside_bytes(load, batch)
    base = rules.base_bytes + (rules.request_bytes if load.role is not Role.GENERATE else 0)
    share, device, device_weights = 0.0, 0, 0
    if offload is not None and offload.layers:
        share = offload.share
        base += _GPU_HOST
        if not offload.unified:
            base += _GPU_BASE
            device_weights = int(weights * share)
            device = device_weights + int(cache * share) + compute + beside + _GPU_BASE
    return MemoryEstimate(
        base=base,
        weights=weights,
        kv_cache=cache,
        compute=compute,
        output=output,
        prompt_cache=load.prompt_cache,
        device=device,
        device_weights=device_weights,
        replicas=replicas,
        repacked=int(_repacked_bytes(gguf, load, weights) * (1 - share)),
        beside=beside,
    )


def _beside_bytes(load: Load, batch: int) -> int:
    """Return what settings add: a draft model has a cache as long as the model's own, in half floats."""
    if load.extras.draft is None:
        return load.extras.fixed
    gguf, size = load.extras.draft
    computed = _compute_bytes(gguf, load, batch) + _output_bytes(gguf, load, batch)
    return load.extras.fixed + size + _cache_bytes(gguf, load) + computed


def _repacked_bytes(gguf: GgufFacts, load: Load, weights: int) -> int:
    """Return the bytes of tensors that are copied; where their types are unknown, the file's tells."""
    dominant = (gguf.quantisation or "").removesuffix("_S").removesuffix("_M")
    known = gguf.tensor_types or ((dominant, weights),)
    return sum(size for name, size in known if name in load.repacked)


def _batch_of(load: Load) -> int:
    return load.batch or min(_DEFAULT_BATCH, load.context * load.slots)


def weights_bytes(facts: FileFacts) -> int:
    """Return the bytes of all weights that are loaded; the parts of a split model count as equal."""
    return sum(w.size * (w.gguf.split[1] if w.gguf.split else 1) for w in facts.weights)


def _compute_bytes(gguf: GgufFacts, load: Load, batch: int) -> int:
    """Return the buffers of one forward pass: activations, the mask, and attention where it is in full."""
    width = gguf.embedding_length or _DEFAULT_WIDTH
    forward = gguf.feed_forward_length or 4 * width
    # As measured; encoders have one matrix behind attention, others two that are multiplied.
    encoder = gguf.causal is False
    hidden = forward + 5 * width if encoder else 2 * forward + 9 * width
    if not encoder and (load.role is not Role.GENERATE or family_rules(load.family).reserves_logits):
        # Results over the vocabulary come last, when most of the rest is no longer needed.
        hidden = max(hidden, (gguf.vocab_size or _DEFAULT_VOCABULARY) + 3 * width)
    seen = batch if encoder else load.context
    size = batch * hidden * _FLOAT + batch * seen * (_FLOAT + _HALF)
    if not load.flash_attention:
        size += (gguf.head_count or 1) * batch * seen * _FLOAT
    return size


def _output_bytes(gguf: GgufFacts, load: Load, batch: int) -> int:
    """Return the results that are kept: of every token of a batch when embedding, else one a slot."""
    row = (gguf.vocab_size or _DEFAULT_VOCABULARY) + (gguf.embedding_length or _DEFAULT_WIDTH)
    rows = max(batch, load.slots) if load.role is not Role.GENERATE else load.slots
    return rows * row * _FLOAT
