"""How large an engine is made: context, slots, batch, threads, replicas, and what gives way first. Pure.

A ``Sizing`` is one complete choice with the rule behind each value. ``shrink_steps`` lists ever smaller
ones, in the order in which a user would miss them least.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from llamafile_mgr.catalog import Model, Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.llamafile import GgufFacts
from llamafile_mgr.machine import Cpu
from llamafile_mgr.planner.memory import Load, cache_bytes_per_token, format_size
from llamafile_mgr.planner.tuning import TunedSettings

__all__ = ["CoreShare", "Sizing", "choose_sizing", "shrink_steps"]

MIB = 1 << 20
#: Used where neither the file nor the catalog tells.
_DEFAULT_CONTEXT = 4096
#: Causal embedding models are advised to 4,096 tokens; generation starts there: the KV cache grows with it.
_LARGEST_CONTEXT = 4096
_SMALLEST_CONTEXT = 512
_ENCODER_SLOTS, _CAUSAL_SLOTS = 4, 2
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

    def load(self, *, on_gpu: bool = False) -> Load:
        """Return what the memory prediction asks for."""
        flash = on_gpu or family_rules(self.family).flash_attention_on_cpu
        full = self.flash_attention is False or not flash
        return Load(
            self.role, self.family, self.context, self.slots, self.batch, self.prompt_cache or 0, not full
        )


def choose_sizing(
    family: Family,
    role: Role,
    gguf: GgufFacts,
    model: Model | None,
    share: CoreShare,
    wish: ModelConfig,
    tuned: TunedSettings | None,
) -> Sizing:
    """Return the best choice, before memory has its say."""
    why: dict[str, str] = {}
    pinned: set[str] = set()
    context = _choose_context(family, role, gguf, model, wish, why, pinned)
    slots = _choose_slots(family, role, gguf, context, wish, why, pinned)
    sizing = Sizing(
        family=family,
        role=role,
        context=context,
        slots=slots,
        batch=_choose_batch(family, role, gguf, context, why),
        threads=share.cores,
        replicas=1,
        prompt_cache=_choose_prompt_cache(family, role, gguf, context, why),
        whole_text=role is not Role.GENERATE and gguf.causal is False,
    )
    sizing = _choose_compute(replace(sizing, why=why, pinned=frozenset(pinned)), gguf, share, wish)
    return sizing if tuned is None else _apply_tuned(sizing, tuned, share, wish)


def text_limit(gguf: GgufFacts, model: Model | None) -> int:
    """Return the longest text that the model itself takes, in tokens."""
    limit = gguf.context_length or _DEFAULT_CONTEXT
    if model is not None and model.max_tokens is not None:
        limit = min(limit, model.max_tokens)
    return limit


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
    shown = "the engine's own" if before is None else _show(setting, before)
    why = {**sizing.why, setting: f"less than {shown}, for memory's sake"}
    return replace(sizing, **{setting: value, "why": why})  # type: ignore[arg-type]


def _show(setting: str, value: int) -> str:
    return format_size(value) if setting == "prompt_cache" else str(value)


def _can_shrink_batch(sizing: Sizing) -> bool:
    told = family_rules(sizing.family).no_batch_why is None and "batch" not in sizing.pinned
    return told and not sizing.whole_text and (sizing.batch or _BATCH) > _SMALL_BATCH


def _choose_context(
    family: Family,
    role: Role,
    gguf: GgufFacts,
    model: Model | None,
    wish: ModelConfig,
    why: dict[str, str],
    pinned: set[str],
) -> int:
    limit = text_limit(gguf, model)
    fixed = family_rules(family).fixed_batch
    if fixed is not None and role is Role.EMBED and gguf.causal is False:
        why["context"] = f"the engine aborts on a BERT batch above its fixed {fixed}"
        pinned.add("context")
        return min(wish.context or limit, fixed)
    if wish.context is not None:
        why["context"] = "set in the configuration"
        pinned.add("context")
        return wish.context
    context = min(limit, _LARGEST_CONTEXT)
    what = "what the model takes" if context == limit else "more would cost memory that few texts need"
    why["context"] = what
    return context


def _choose_slots(
    family: Family,
    role: Role,
    gguf: GgufFacts,
    context: int,
    wish: ModelConfig,
    why: dict[str, str],
    pinned: set[str],
) -> int:
    if family_rules(family).one_slot:
        pinned.add("slots")
        if role is Role.EMBED:
            why["slots"] = "more than one slot nulls embeddings in this engine"
            return 1
        why["slots"] = "set in the configuration" if wish.slots else "slots divide the context in this engine"
        return wish.slots or 1
    if wish.slots is not None:
        pinned.add("slots")
        why["slots"] = "set in the configuration"
        return wish.slots
    if role is Role.GENERATE:
        why["slots"] = "two conversations at once"
        return _CAUSAL_SLOTS
    if gguf.causal is False:
        why["slots"] = "texts of one request are computed together"
        return _ENCODER_SLOTS
    cost = format_size(cache_bytes_per_token(gguf) * context)
    why["slots"] = f"two texts are computed together; each slot costs {cost} of key/value cache"
    return _CAUSAL_SLOTS


def _choose_batch(
    family: Family, role: Role, gguf: GgufFacts, context: int, why: dict[str, str]
) -> int | None:
    passed_not = family_rules(family).no_batch_why
    if passed_not is not None or role is Role.GENERATE:
        why["batch"] = passed_not or "the engine's own is right"
        return None
    if gguf.causal is False:
        why["batch"] = "a whole text must fit one physical batch"
        return context
    why["batch"] = "a causal model's text may be split over batches"
    return min(context, _BATCH)


def _choose_prompt_cache(
    family: Family, role: Role, gguf: GgufFacts, context: int, why: dict[str, str]
) -> int | None:
    if role is not Role.GENERATE or not family_rules(family).keeps_conversations:
        return None
    why["prompt_cache"] = "two conversations beside those under way; the engine's own limit is 8 GiB"
    wanted = 2 * cache_bytes_per_token(gguf) * context
    return min(_LARGEST_PROMPT_CACHE, max(MIB, -(-wanted // MIB) * MIB))


def _choose_compute(sizing: Sizing, gguf: GgufFacts, share: CoreShare, wish: ModelConfig) -> Sizing:
    why = dict(sizing.why)
    of = f"of {share.cpu.usable_cores} usable cores"
    if share.others:
        of += f", shared with {share.others} other model{'s' if share.others > 1 else ''}"
    small = sizing.role is not Role.GENERATE and gguf.causal is False and gguf.parameters < _SMALL_ENCODER
    if wish.replicas is not None:
        threads = wish.threads or max(1, share.cores // wish.replicas)
        why["replicas"] = "set in the configuration"
        why["threads"] = why["replicas"] if wish.threads else f"{of}; {wish.replicas} engines share them"
        pinned = sizing.pinned | {"threads", "replicas"}
        return replace(sizing, threads=threads, replicas=wish.replicas, why=why, pinned=pinned)
    if wish.threads is not None:
        why["threads"] = "set in the configuration"
        why["replicas"] = "the number of threads is set in the configuration"
        pinned = sizing.pinned | {"threads", "replicas"}
        return replace(sizing, threads=wish.threads, replicas=1, why=why, pinned=pinned)
    if not small:
        why["replicas"] = (
            "a model of this size keeps all cores busy with one engine"
            if sizing.role is not Role.GENERATE
            else "a second engine would need a second key/value cache and no fewer cores"
        )
        threads, why["threads"] = _cap(share.cores, _MOST_THREADS, of)
        return replace(sizing, threads=threads, why=why)
    replicas = min(share.cores, _MOST_REPLICAS)
    size = f"an encoder of {gguf.parameters / 1e6:.0f} million parameters scales badly with threads"
    why["replicas"] = f"{size}: one engine per core, {_MOST_REPLICAS} at most"
    threads, why["threads"] = _cap(share.cores // replicas, _MOST_SMALL_THREADS, of)
    if replicas > 1:
        why["threads"] += f"; {replicas} engines share them"
    return replace(sizing, threads=threads, replicas=replicas, why=why)


def _cap(cores: int, most: int, of: str) -> tuple[int, str]:
    if cores <= most:
        return cores, of
    return most, f"{of}; more than {most} threads in one engine rarely pay"


def _apply_tuned(sizing: Sizing, tuned: TunedSettings, share: CoreShare, wish: ModelConfig) -> Sizing:
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
