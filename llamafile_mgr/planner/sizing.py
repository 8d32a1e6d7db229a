"""How large an engine is made: context, slots, batch, threads, replicas, and what gives way first. Pure.

A ``Sizing`` is one complete choice with the rule behind each value. ``shrink_steps`` lists ever smaller
ones, in the order in which a user would miss them least.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.llamafile import GgufFacts
from llamafile_mgr.machine import Cpu
from llamafile_mgr.planner.memory import MIB, Load, cache_bytes_per_token, format_size
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.tuning import TunedSettings

__all__ = ["CoreShare", "Sizing", "choose_sizing", "shrink_steps"]

_TOLD = "set in the configuration"
#: Causal embedding models are advised to 4,096 tokens; generation starts there: the KV cache grows with it.
_LARGEST_CONTEXT = 4096
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
_MOST_REPLICAS = 4
#: More threads in one engine cost more in waiting for each other than they add: llamafile's own limit for
#: generation, and ours for small encoders (not measured above two cores).
_MOST_THREADS, _MOST_SMALL_THREADS = 20, 8
_LARGEST_PROMPT_CACHE = 1024 * MIB


@dataclass(frozen=True, slots=True)
class CoreShare:
    """What one model gets of the processor: ``cores`` of it, beside ``others`` models."""

    cpu: Cpu
    cores: int
    others: int


@dataclass(frozen=True, slots=True)
class Sizing:
    """One choice. ``prompt_cache``: bytes, None where the engine has none. ``why``: the rule per setting.

    ``pinned``: settings that never give way. ``whole_text``: a batch must hold the longest text.
    """

    family: Family
    role: Role
    context: int
    slots: int
    batch: int | None
    threads: int
    replicas: int
    prompt_cache: int | None = None
    flash_attention: bool | None = None
    why: Mapping[str, str] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    whole_text: bool = False

    def load(self, *, on_gpu: bool) -> Load:
        """Return what the memory prediction asks for."""
        flash = on_gpu or family_rules(self.family).flash_attention_on_cpu
        flash = flash and self.flash_attention is not False
        cache = self.prompt_cache or 0
        return Load(self.role, self.family, self.context, self.slots, self.batch, cache, flash)


def choose_sizing(
    spec: ModelSpec,
    gguf: GgufFacts,
    family: Family,
    share: CoreShare,
    override: ModelConfig,
    tuned: TunedSettings | None,
) -> Sizing:
    """Return the best choice, before memory has its say."""
    choice = _Choice(family_rules(family), spec.role, gguf, override)
    context = choice.context(spec.text_limit)
    slots, batch, prompt_cache = choice.slots(context), choice.batch(context), choice.prompt_cache(context)
    threads, replicas = choice.compute(share)
    sizing = Sizing(
        family=family,
        role=spec.role,
        context=context,
        slots=slots,
        batch=batch,
        threads=threads,
        replicas=replicas,
        prompt_cache=prompt_cache,
        why=choice.why,
        pinned=frozenset(choice.pinned),
        whole_text=spec.role is not Role.GENERATE and gguf.causal is False,
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


def shrink_steps(sizing: Sizing) -> Iterator[Sizing]:
    """Yield ``sizing`` and then smaller ones: each step gives up one thing and keeps the earlier losses."""
    yield sizing
    while sizing.replicas > 1 and "replicas" not in sizing.pinned:
        sizing = _less(sizing, "replicas", sizing.replicas - 1)
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
    role: Role
    gguf: GgufFacts
    override: ModelConfig
    why: dict[str, str] = field(default_factory=dict)
    pinned: set[str] = field(default_factory=set)

    def context(self, limit: int) -> int:
        """Return the tokens of a slot; ``limit``: the longest text that the model takes."""
        fixed, told = self.rules.fixed_batch, self.override.context
        if fixed is not None and self.role is Role.EMBED and self.gguf.causal is False:
            self._pin("context", f"the engine aborts on a BERT batch above its fixed {fixed}")
            return min(told or limit, fixed)
        if told is not None:
            self._pin("context", _TOLD)
            return told
        context = min(limit, _LARGEST_CONTEXT)
        whole = context == limit
        self.why["context"] = (
            "what the model takes" if whole else "more would cost memory that few texts need"
        )
        return context

    def slots(self, context: int) -> int:
        """Return how many texts or conversations are computed at once."""
        told = self.override.slots
        if self.rules.one_slot:
            if self.role is Role.EMBED:
                self._pin("slots", "more than one slot nulls embeddings in this engine")
                return 1
            self._pin("slots", _TOLD if told else "slots divide the context in this engine")
            return told or 1
        if told is not None:
            self._pin("slots", _TOLD)
            return told
        if self.role is Role.GENERATE:
            self.why["slots"] = "two conversations at once"
            return _CAUSAL_SLOTS
        if self.gguf.causal is False:
            self.why["slots"] = "texts of one request are computed together"
            return encoder_slots(self.gguf.quantisation)
        size = format_size(cache_bytes_per_token(self.gguf) * context)
        self.why["slots"] = f"two texts are computed together; each slot costs {size} of key/value cache"
        return _CAUSAL_SLOTS

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

    def prompt_cache(self, context: int) -> int | None:
        """Return the bytes of remembered conversations, None where the engine remembers none."""
        if self.role is not Role.GENERATE or not self.rules.keeps_conversations:
            return None
        self.why["prompt_cache"] = "two conversations beside those under way; the engine's own limit is 8 GiB"
        needed = 2 * cache_bytes_per_token(self.gguf) * context
        return min(_LARGEST_PROMPT_CACHE, max(MIB, -(-needed // MIB) * MIB))

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
        if not encodes or self.gguf.causal is not False or self.gguf.parameters >= _SMALL_ENCODER:
            self.why["replicas"] = (
                "a model of this size keeps all cores busy with one engine"
                if encodes
                else "a second engine would need a second key/value cache and no fewer cores"
            )
            return self._cap(share.cores, _MOST_THREADS, of), 1
        replicas = min(share.cores, _MOST_REPLICAS)
        size = f"an encoder of {self.gguf.parameters / 1e6:.0f} million parameters scales badly with threads"
        self.why["replicas"] = f"{size}: one engine per core, {_MOST_REPLICAS} at most"
        threads = self._cap(share.cores // replicas, _MOST_SMALL_THREADS, of)
        if replicas > 1:
            self.why["threads"] += f"; {replicas} engines share them"
        return threads, replicas

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
    if best.flash_attention is not None:
        values["flash_attention"] = best.flash_attention
    for setting in values:
        why[setting] = note
    return replace(sizing, **values, why=why)  # type: ignore[arg-type]
