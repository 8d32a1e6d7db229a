"""What a model's settings ask of its engine, checked against the model, with reasons. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engine_settings import is_quantised
from llamafile_mgr.engines.engine_args import read_engine_args
from llamafile_mgr.engines.engine_features import Adapter, Features
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import GgufFacts
from llamafile_mgr.planner.memory import MIB, MemoryExtras, format_size
from llamafile_mgr.planner.model_specs import ModelSpec, SideFile
from llamafile_mgr.planner.plans import Reason

_TOLD = "set in the configuration"
_FOR_CHATS = ("mmproj", "draft", "chat_template", "reasoning_budget")
#: Architectures whose positions are learned rows and not rotations.
_NO_ROTATION = frozenset({"bert", "jina-bert-v2", "gpt2"})
_LARGEST_BLOCK = 32
#: llama.cpp drafts with a vocabulary that differs by so many tokens at most (``common/speculative.cpp``).
_VOCABULARY_SLACK = 128
#: Buffers for one image: an estimate, since it depends on the projector and on the image.
_IMAGE_BYTES = 128 * MIB


@dataclass(frozen=True, slots=True)
class AskedFeatures:
    """``engine_args``: as the settings hold them; a family reads them."""

    features: Features = field(default_factory=Features)
    engine_args: tuple[str, ...] = ()
    extras: MemoryExtras = field(default_factory=MemoryExtras)
    reasons: tuple[Reason, ...] = ()


def read_asked(spec: ModelSpec, override: ModelConfig) -> AskedFeatures:
    """Return what the settings of ``spec`` ask for.

    Raises:
        PlanError: it makes no sense for this model, or no engine family takes it.
    """
    gguf = spec.gguf
    if gguf is None:
        return AskedFeatures()
    _check_role(spec, override)
    keys, values = (override.cache_type * 2)[:2] if override.cache_type else (None, None)
    if keys is not None and values is not None:
        _check_cache(spec, gguf, (keys, values))
    if (override.rope or override.yarn) and gguf.architecture in _NO_ROTATION:
        raise PlanError(f"{spec.name} has no rotary positions: rope and yarn mean nothing to it")
    _check_files(spec, gguf)
    _check_engine_args(spec, override.engine_args)
    beside = spec.beside
    features = Features(
        mmproj=None if beside.mmproj is None else beside.mmproj.path,
        lora=tuple(
            Adapter(file.path, told.scale, file.digest)
            for file, told in zip(beside.lora, override.lora, strict=True)
        ),
        draft=None if beside.draft is None else beside.draft.path,
        cache_type_k=keys,
        cache_type_v=values,
        chat_template=override.chat_template if beside.chat_template is None else None,
        chat_template_file=beside.chat_template,
        reasoning_budget=override.reasoning_budget,
    )
    features = _with_positions(features, override)
    return AskedFeatures(
        features, override.engine_args, _extras(spec, features), tuple(_reasons(spec, override, features))
    )


def _check_role(spec: ModelSpec, override: ModelConfig) -> None:
    if spec.role is Role.GENERATE:
        return
    for key in _FOR_CHATS:
        if getattr(override, key) is not None:
            raise PlanError(
                f"models.{spec.name}.{key} is for models that generate",
                cause=f"{spec.name} is served to {spec.role.value}",
            )


def _check_cache(spec: ModelSpec, gguf: GgufFacts, types: tuple[str, str]) -> None:
    if gguf.causal is False:
        raise PlanError(
            f"models.{spec.name}.cache_type: {spec.name} has no key/value cache",
            cause="it reads a text at once and remembers nothing",
        )
    width = (gguf.embedding_length or 0) // (gguf.head_count or 1)
    for what, name, length in (
        ("keys", types[0], gguf.key_length or width),
        ("values", types[1], gguf.value_length or width),
    ):
        if is_quantised(name) and length % _LARGEST_BLOCK:
            raise PlanError(
                f"models.{spec.name}.cache_type: {what} of {spec.name} cannot be {name}",
                cause=f"this type packs {_LARGEST_BLOCK} numbers together, and a head has {length}",
                hint='cache_type = "f16" is what engines take by themselves',
            )


def _check_files(spec: ModelSpec, gguf: GgufFacts) -> None:
    beside = spec.beside
    if beside.mmproj is not None and not beside.mmproj.gguf.is_projector:
        raise _wrong_file(spec, "mmproj", beside.mmproj, "it is no projector")
    for file in beside.lora:
        if not file.gguf.is_adapter:
            raise _wrong_file(spec, "lora", file, "it is no adapter")
        if file.gguf.architecture != gguf.architecture:
            found = f"it is for {file.gguf.architecture}, and the model is {gguf.architecture}"
            raise _wrong_file(spec, "lora", file, found)
        if set(",:") & set(str(file.path)):
            raise _wrong_file(spec, "lora", file, "engines cannot read a path with a comma or a colon in it")
    if beside.draft is not None:
        _check_draft(spec, gguf, beside.draft)


def _check_draft(spec: ModelSpec, gguf: GgufFacts, draft: SideFile) -> None:
    other = draft.gguf
    if other.is_projector or other.is_adapter or other.causal is False:
        raise _wrong_file(spec, "draft", draft, "it is no model that generates")
    if other.tokenizer_model != gguf.tokenizer_model or _differ(other.vocab_size, gguf.vocab_size):
        words = [f"{each.vocab_size} tokens ({each.tokenizer_model})" for each in (other, gguf)]
        found = f"it has a vocabulary of {words[0]}, and the model one of {words[1]}"
        raise _wrong_file(spec, "draft", draft, found)
    if _other_marks(other, gguf):
        raise _wrong_file(spec, "draft", draft, "its texts begin or end with other tokens than the model's")


def _other_marks(draft: GgufFacts, gguf: GgufFacts) -> bool:
    """Tell whether texts begin or end with other tokens; engines then load a draft model and never ask it."""
    begins = (draft.add_bos, draft.bos_id), (gguf.add_bos, gguf.bos_id)
    ends = (draft.add_eos, draft.eos_id), (gguf.add_eos, gguf.eos_id)
    return any(
        None not in (added, other) and (added is not other or (added and mark != its_mark))
        for (added, mark), (other, its_mark) in (begins, ends)
    )


def _differ(first: int | None, second: int | None) -> bool:
    return first is not None and second is not None and abs(first - second) > _VOCABULARY_SLACK


def _wrong_file(spec: ModelSpec, key: str, file: SideFile, why: str) -> PlanError:
    return PlanError(f"models.{spec.name}.{key}: {file.name} cannot be used", cause=why)


def _check_engine_args(spec: ModelSpec, words: tuple[str, ...]) -> None:
    """Refuse what no family takes; what one of them does not is its own reason not to be taken."""
    if not words:
        return
    known = {name: flag for family in Family for name, flag in family_rules(family).extra_flags.items()}
    try:
        read_engine_args(words, known)
    except PlanError as error:
        message = f"models.{spec.name}.{error.message}"
        raise PlanError(message, cause=error.cause, hint=error.hint) from None


def _with_positions(features: Features, override: ModelConfig) -> Features:
    rope, yarn = override.rope, override.yarn
    if rope is not None:
        scale = rope.scale
        features = replace(
            features,
            rope_scaling=rope.scaling or ("linear" if scale else None),
            rope_freq_base=rope.freq_base,
            rope_freq_scale=None if scale is None else 1 / scale,
        )
    if yarn is None:
        return features
    return replace(
        features,
        rope_scaling="yarn",
        rope_freq_scale=1 / yarn.scale,
        yarn_orig_ctx=yarn.original_context,
        yarn_ext_factor=yarn.ext_factor,
        yarn_attn_factor=yarn.attn_factor,
        yarn_beta_fast=yarn.beta_fast,
        yarn_beta_slow=yarn.beta_slow,
    )


def _extras(spec: ModelSpec, features: Features) -> MemoryExtras:
    beside = spec.beside
    fixed = sum(file.size for file in beside.lora)
    if beside.mmproj is not None:
        fixed += beside.mmproj.size + _IMAGE_BYTES
    draft = (beside.draft.gguf, beside.draft.size) if beside.draft is not None else None
    return MemoryExtras((features.cache_type_k or "f16", features.cache_type_v or "f16"), fixed, draft)


def _reasons(spec: ModelSpec, override: ModelConfig, features: Features) -> Iterator[Reason]:
    beside = spec.beside
    if beside.mmproj is not None:
        size = format_size(beside.mmproj.size)
        yield Reason("mmproj", beside.mmproj.name, f"{_TOLD}; it reads the images of chats ({size})")
    if beside.lora:
        shown = ", ".join(f"{each.file} x {each.scale:g}" for each in override.lora)
        yield Reason("lora", shown, f"{_TOLD}; the model answers as these adapters change it")
    if beside.draft is not None:
        why = f"{_TOLD}; it guesses ahead, and the model checks ({format_size(beside.draft.size)})"
        yield Reason("draft", beside.draft.name, why)
    if features.cache_type_k is not None:
        shown = f"keys {features.cache_type_k}, values {features.cache_type_v}"
        yield Reason("cache_type", shown, f"{_TOLD}; engines take f16 by themselves")
    if override.yarn is not None:
        shown = f"{override.yarn.scale:g} times the length it was trained for"
        yield Reason("yarn", shown, f"{_TOLD}; short texts lose a little by it")
    if override.rope is not None:
        words = {
            "scaling": features.rope_scaling,
            "scale": override.rope.scale,
            "base": override.rope.freq_base,
        }
        shown = ", ".join(f"{name} {value}" for name, value in words.items() if value is not None)
        yield Reason("rope", shown, f"{_TOLD}; engines take what the file says by themselves")
    if override.chat_template is not None:
        yield Reason("chat_template", override.chat_template, f"{_TOLD}; in place of the file's own")
    if override.reasoning_budget is not None:
        count = override.reasoning_budget
        shown = "no limit" if count < 0 else f"{count} tokens"
        yield Reason("reasoning_budget", shown, f"{_TOLD}; thinking ends there")
    if override.engine_args:
        yield Reason("engine_args", shlex.join(override.engine_args), _TOLD)
