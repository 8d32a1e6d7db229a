"""How large an engine is made: context, slots, batch, threads, replicas, and what gives way first. Pure.

A ``Sizing`` is one complete choice with the rule behind each value. ``shrink_steps`` lists ever smaller
ones, in the order in which a user would miss them least.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engine_settings import is_quantised
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.llamafile import GgufFacts
from llamafile_mgr.machine import Cpu
from llamafile_mgr.planner.memory import (
    MIB,
    Load,
    MemoryExtras,
    cache_bytes_per_token,
    context_bytes,
    format_size,
    weights_bytes,
)
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.tuning import TunedSettings

_TOLD = "set in the configuration"
#: Causal embedding models are advised to 4,096 tokens. Generation gets what the model takes where the memory
#: that grows with it stays within a part of what is free; so much it gets anyway, if it can be had at all.
_USUAL_CONTEXT = 4096
_CONTEXT_PART = 4
#: A conversation is cut to it before the other slot is given up.
_LONG_CONTEXT = 8192
_SMALLEST_CONTEXT = 512
#: With fewer, the texts of a request are computed in several smaller batches (measured with MiniLM and a
#: native build: 16 take 0.94 of the time of 4). Of quantised weights vectors then depend on what is computed
#: beside them (Q8_0 on the wheel: cosine 0.9998 with 16, 1.0 with 4).
_ENCODER_SLOTS, _QUANTISED_SLOTS, _CAUSAL_SLOTS = 16, 4, 2
_UNQUANTISED = frozenset({"F16", "BF16", "F32"})
_BATCH = 512
_SMALL_BATCH = 128
#: Below it one thread per engine and several engines beat several threads (measured with MiniLM, 23
#: million parameters, on two cores: +10 to 30 %).
_SMALL_ENCODER = 150_000_000
_FEW_REPLICAS = 4
#: More threads in one engine cost more in waiting for each other than they add: llamafile's own limit for
#: generation, and ours for small encoders (not measured above two cores). Further cores get further engines.
_MOST_THREADS, _MOST_SMALL_THREADS = 20, 8
#: A GPU computes a batch of so many tokens of an encoder about as fast as one of 512; the texts of one batch
#: are no more than there are slots, and an encoder keeps nothing per slot.
_GPU_BATCH, _GPU_SLOTS = 2048, 32
#: What engines may remember of finished conversations (their own limit is 8 GiB): it fills slowly, and more
#: would make what is planned much larger than what is taken.
_LARGEST_PROMPT_CACHE, _CACHE_PART, _CACHE_WORD = 1024 * MIB, 5, "fifth"


@dataclass(frozen=True, slots=True)
class CoreShare:
    """What one model gets of the processor: ``cores`` of it, beside ``others`` models."""

    cpu: Cpu
    cores: int
    others: int


@dataclass(frozen=True, slots=True)
class Sizing:
    """One choice. ``batch_threads``: for prompts, where they are more. ``prompt_cache``: bytes, None where
    the engine has none. ``why``: the rule per setting.

    ``pinned``: settings that never give way. ``whole_text``: a batch must hold the longest text.
    ``tuned``: measured here. ``repacked``: types of tensors that the engine copies into another layout.
    ``extras``: what settings add to the memory.
    """

    family: Family
    role: Role
    context: int
    slots: int
    batch: int | None
    threads: int
    replicas: int
    batch_threads: int | None = None
    prompt_cache: int | None = None
    flash_attention: bool | None = None
    why: Mapping[str, str] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    whole_text: bool = False
    tuned: bool = False
    repacked: frozenset[str] = frozenset()
    extras: MemoryExtras = field(default_factory=MemoryExtras)

    def load(self, *, on_gpu: bool) -> Load:
        """Return what the memory prediction asks for."""
        flash = on_gpu or family_rules(self.family).flash_attention_on_cpu
        flash = flash and self.flash_attention is not False
        cache = self.prompt_cache or 0
        return Load(
            self.role,
            self.family,
            self.context,
            self.slots,
            self.batch,
            cache,
            flash,
            self.repacked,
            self.extras,
        )


def choose_sizing(
    spec: ModelSpec,
    gguf: GgufFacts,
    family: Family,
    share: CoreShare,
    override: ModelConfig,
    tuned: TunedSettings | None,
    extras: MemoryExtras,
    free: float,
    on_gpu: bool,
) -> Sizing:
    """Return the best choice, before memory has its say. ``free``: bytes where it would best compute, which
    is ``on_gpu`` or in main memory."""
    choice = _Choice(family_rules(family), family, spec.role, gguf, override, extras)
    flash = on_gpu or choice.rules.flash_attention_on_cpu
    context = choice.context(spec.text_limit, free, flash=flash)
    slots, batch = choice.slots(context), choice.batch(context)
    prompt_cache = choice.prompt_cache(context, slots, weights_bytes(spec.facts))
    threads, replicas = choice.compute(share)
    flash_attention = choice.flash_attention()
    sizing = Sizing(
        family=family,
        role=spec.role,
        context=context,
        slots=slots,
        batch=batch,
        threads=threads,
        replicas=replicas,
        batch_threads=choice.batch_threads(share, threads),
        prompt_cache=prompt_cache,
        flash_attention=flash_attention,
        extras=extras,
        why=choice.why,
        pinned=frozenset(choice.pinned),
        whole_text=spec.role is not Role.GENERATE and gguf.causal is False,
        repacked=choice.rules.repacked_types(share.cpu),
    )
    return sizing if tuned is None else _apply_tuned(sizing, tuned, share)


def encoder_slots(quantisation: str | None) -> int:
    """Return how many texts an encoder's engine computes at once, for weights of this type."""
    return _ENCODER_SLOTS if quantisation in _UNQUANTISED else _QUANTISED_SLOTS


def one_engine(sizing: Sizing, cores: int, why: str) -> Sizing:
    """Return the same choice with one engine and all its cores."""
    if sizing.replicas == 1 or "replicas" in sizing.pinned:
        return sizing
    threads = sizing.threads if "threads" in sizing.pinned else min(cores, _MOST_THREADS)
    return replace(sizing, replicas=1, threads=threads, why={**sizing.why, "replicas": why})


def fill_gpu(sizing: Sizing) -> Sizing:
    """Return the same choice of an encoder with batches that keep a GPU busy."""
    if not sizing.whole_text or sizing.tuned or sizing.batch is None or sizing.batch >= _GPU_BATCH:
        return sizing
    why = {**sizing.why, "batch": "a GPU computes several texts in the time of one"}
    slots = sizing.slots
    if "slots" not in sizing.pinned and slots < _GPU_SLOTS:
        slots, why["slots"] = _GPU_SLOTS, "as many texts as one batch on the GPU may hold"
    return replace(sizing, batch=_GPU_BATCH, slots=slots, why=why)


def shrink_steps(sizing: Sizing) -> Iterator[Sizing]:
    """Yield ``sizing`` and then smaller ones: each step gives up one thing and keeps the earlier losses."""
    yield sizing
    while sizing.replicas > 1 and "replicas" not in sizing.pinned:
        sizing = _less(sizing, "replicas", sizing.replicas - 1)
        yield sizing
    while sizing.context > _LONG_CONTEXT and "context" not in sizing.pinned and not sizing.whole_text:
        sizing = _less(sizing, "context", max(_LONG_CONTEXT, sizing.context // 2))
        yield sizing
    if sizing.prompt_cache:
        sizing = _less(sizing, "prompt_cache", 0)
        yield sizing
    if sizing.whole_text and sizing.batch is not None and sizing.batch > sizing.context:
        sizing = _less(sizing, "batch", sizing.context)
        yield sizing
    # An encoder keeps nothing per slot.
    while sizing.slots > 1 and "slots" not in sizing.pinned and not sizing.whole_text:
        sizing = _less(sizing, "slots", sizing.slots // 2)
        yield sizing
    while sizing.context > _SMALLEST_CONTEXT and "context" not in sizing.pinned:
        smaller = max(_SMALLEST_CONTEXT, sizing.context // 2)
        sizing = _less(sizing, "context", smaller)
        if sizing.whole_text and sizing.batch is not None:
            sizing = _less(sizing, "batch", smaller)
        yield sizing
        if smaller == 2048 and _can_shrink_batch(sizing):
            sizing = _less(sizing, "batch", _SMALL_BATCH)
            yield sizing
    if _can_shrink_batch(sizing):
        yield _less(sizing, "batch", _SMALL_BATCH)


def _less(sizing: Sizing, setting: str, value: int) -> Sizing:
    before = getattr(sizing, setting)
    shown = "the engine's own" if before is None else str(before)
    if setting == "prompt_cache":
        shown = format_size(before)
    why = {**sizing.why, setting: f"less than {shown}, for memory's sake"}
    return replace(sizing, **{setting: value, "why": why})  # type: ignore[arg-type]


def _can_shrink_batch(sizing: Sizing) -> bool:
    told = family_rules(sizing.family).no_batch_why is None
    return told and not sizing.whole_text and (sizing.batch or _BATCH) > _SMALL_BATCH


@dataclass(frozen=True, slots=True)
class _Choice:
    """What is chosen of one engine, and so far ``why``, and ``pinned``: which settings never give way."""

    rules: EngineFamily
    family: Family
    role: Role
    gguf: GgufFacts
    override: ModelConfig
    extras: MemoryExtras
    why: dict[str, str] = field(default_factory=dict)
    pinned: set[str] = field(default_factory=set)

    def context(self, limit: int, free: float, *, flash: bool) -> int:
        """Return the tokens of a slot; ``limit``: the longest text that the model takes, ``free``: bytes
        where it computes, ``flash``: with flash attention."""
        fixed, told = self.rules.fixed_batch, self.override.context
        if fixed is not None and self.role is Role.EMBED and self.gguf.causal is False:
            self._pin("context", f"the engine aborts on a BERT batch above its fixed {fixed}")
            return min(told or limit, fixed)
        if told is not None:
            self._pin("context", _TOLD)
            return told
        if self.role is Role.GENERATE:
            return self._conversation(limit, free, flash)
        context = min(limit, _USUAL_CONTEXT)
        whole = context == limit
        self.why["context"] = (
            "what the model takes" if whole else "more would cost memory that few texts need"
        )
        return context

    def _conversation(self, limit: int, free: float, flash: bool) -> int:
        """Return the longest conversation for which all slots together stay within their part of memory."""
        slots = self._generation_slots()

        def fits(context: int) -> bool:
            load = Load(
                self.role, self.family, context, slots, None, flash_attention=flash, extras=self.extras
            )
            return isfinite(free) and context_bytes(self.gguf, load) * _CONTEXT_PART <= free

        lengths = [limit, *(1 << power for power in range(30, 11, -1) if 1 << power < limit)]
        context = next((each for each in lengths if each <= _USUAL_CONTEXT or fits(each)), limit)
        if context == limit:
            self.why["context"] = "what the model takes"
        elif context <= _USUAL_CONTEXT:
            self.why["context"] = "more would take too much of the memory that is free"
        else:
            share = (
                f"{slots} slot{'s take' if slots > 1 else ' takes'} no more than a quarter of the free memory"
            )
            self.why["context"] = f"{share}; the model itself takes {limit}"
        return context

    def slots(self, context: int) -> int:
        """Return how many texts or conversations are computed at once."""
        told = self.override.slots
        if self.rules.one_slot:
            if self.role is Role.EMBED:
                self._pin("slots", "more than one slot nulls embeddings in this engine")
                return 1
            self._pin("slots", _TOLD if told else "slots divide the context in this engine")
            return self._generation_slots()
        if told is not None:
            self._pin("slots", _TOLD)
            return told
        if self.role is Role.GENERATE:
            self.why["slots"] = "two conversations at once"
            return self._generation_slots()
        if self.gguf.causal is False:
            self.why["slots"] = "texts of one request are computed together"
            return encoder_slots(self.gguf.quantisation)
        size = format_size(cache_bytes_per_token(self.gguf, self.extras.cache_types) * context)
        self.why["slots"] = f"two texts are computed together; each slot costs {size} of key/value cache"
        return _CAUSAL_SLOTS

    def _generation_slots(self) -> int:
        return self.override.slots or (1 if self.rules.one_slot else _CAUSAL_SLOTS)

    def batch(self, context: int) -> int | None:
        """Return the tokens of a physical batch, None where it is left to the engine."""
        not_passed = self.rules.no_batch_why
        if not_passed is not None or self.role is Role.GENERATE:
            self.why["batch"] = not_passed or "the engine's own is right"
            return None
        if self.gguf.causal is False:
            self.why["batch"] = "a whole text must fit one physical batch"
            return context
        self.why["batch"] = "a causal model's text may be split over batches"
        return min(context, _BATCH)

    def prompt_cache(self, context: int, slots: int, weights: int) -> int | None:
        """Return the bytes of remembered conversations, None where the engine remembers none. ``weights``:
        bytes of the model."""
        if self.role is not Role.GENERATE or not self.rules.keeps_conversations:
            return None
        part = f"at most a {_CACHE_WORD} of what the model and its slots take"
        self.why["prompt_cache"] = f"two conversations beside those under way, {part}"
        conversation = cache_bytes_per_token(self.gguf, self.extras.cache_types) * context
        needed = min(2 * conversation, (weights + slots * conversation) // _CACHE_PART)
        return min(_LARGEST_PROMPT_CACHE, max(MIB, -(-needed // MIB) * MIB))

    def flash_attention(self) -> bool | None:
        """Return whether it is asked for, None where that is left to the engine."""
        kind = self.extras.cache_types[1]
        if not is_quantised(kind):
            return None
        self._pin("flash_attention", f"values of the type {kind} need it")
        return True

    def compute(self, share: CoreShare) -> tuple[int, int]:
        """Return the threads of an engine, and how many engines there are."""
        of = f"of {share.cpu.usable_cores} usable cores"
        if share.others:
            of += f", shared with {share.others} other model{'s' if share.others > 1 else ''}"
        threads, replicas = self.override.threads, self.override.replicas
        if replicas is not None:
            self._pin("replicas", _TOLD)
            self._pin("threads", _TOLD if threads else f"{of}; {replicas} engines share them")
            return threads or max(1, share.cores // replicas), replicas
        if threads is not None:
            self._pin("threads", _TOLD)
            self._pin("replicas", "the number of threads is set in the configuration")
            return threads, 1
        encodes = self.role is not Role.GENERATE
        if not encodes:
            self.why["replicas"] = "a second engine would need a second key/value cache and no fewer cores"
            return self._cap(share.cores, _MOST_THREADS, of), 1
        small = self.gguf.causal is False and self.gguf.parameters < _SMALL_ENCODER
        few, most = (min(share.cores, _FEW_REPLICAS), _MOST_SMALL_THREADS) if small else (1, _MOST_THREADS)
        replicas = max(few, -(-share.cores // most))
        if replicas > few:
            why = f"more than {most} threads in one engine rarely pay, so that more cores get more engines"
        elif small:
            size = f"an encoder of {self.gguf.parameters / 1e6:.0f} million parameters"
            why = f"{size} scales badly with threads: one engine per core, {_FEW_REPLICAS} at most"
        else:
            why = "a model of this size keeps all cores busy with one engine"
        self.why["replicas"] = why
        self.why["threads"] = of if replicas == 1 else f"{of}; {replicas} engines share them"
        return share.cores // replicas, replicas

    def batch_threads(self, share: CoreShare, threads: int) -> int | None:
        """Return the threads for prompts, None where they are those for everything."""
        if self.role is not Role.GENERATE or "threads" in self.pinned or share.cores <= threads:
            return None
        if not self.rules.takes_batch_threads:
            return None
        self.why["batch_threads"] = "prompts gain from every core, tokens one after another do not"
        return share.cores

    def _pin(self, setting: str, why: str) -> None:
        self.why[setting] = why
        self.pinned.add(setting)

    def _cap(self, cores: int, most: int, of: str) -> int:
        enough = cores <= most
        self.why["threads"] = of if enough else f"{of}; more than {most} threads in one engine rarely pay"
        return min(cores, most)


def _apply_tuned(sizing: Sizing, tuned: TunedSettings, share: CoreShare) -> Sizing:
    """Return the measured settings where they apply; what the user set wins.

    They were measured with the machine to themselves: beside other models the cores are shared as ever.
    """
    why, best = dict(sizing.why), tuned.variant
    note = tuned.describe()
    values: dict[str, int | bool | None] = {}
    if "threads" not in sizing.pinned and best.threads * best.replicas <= share.cores:
        values |= {"threads": best.threads, "replicas": best.replicas}
    if "slots" not in sizing.pinned:
        values["slots"] = best.slots
    if sizing.batch is not None and best.batch is not None:
        values["batch"] = max(best.batch, sizing.context) if sizing.whole_text else best.batch
    if best.flash_attention is not None and "flash_attention" not in sizing.pinned:
        values["flash_attention"] = best.flash_attention
    for setting in values:
        why[setting] = note
    return replace(sizing, **values, why=why, tuned=True)  # type: ignore[arg-type]
