"""What settings ask of an engine beside its sizes, in words that no family owns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: What engines take by themselves for keys and for values.
_DEFAULT_CACHE = "f16"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter. ``digest``: of its tensors, as weights are told apart."""

    path: Path
    scale: float
    digest: str


@dataclass(frozen=True, slots=True)
class Features:
    """What is asked; None leaves a thing to the engine. Each field but ``lora`` is one flag.

    ``yarn_orig_ctx``: tokens. ``rope_freq_scale``: the inverse of how much positions are stretched.
    ``reasoning_budget``: tokens, -1 for any number.
    """

    mmproj: Path | None = None
    lora: tuple[Adapter, ...] = ()
    draft: Path | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    rope_scaling: str | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    yarn_orig_ctx: int | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    chat_template: str | None = None
    chat_template_file: Path | None = None
    reasoning_budget: int | None = None

    def asked(self) -> Mapping[str, object]:
        """Return the fields that ask for something."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value not in (None, ())}

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that the engine reads beside its model."""
        single = (self.mmproj, self.draft, self.chat_template_file)
        return (*(path for path in single if path is not None), *(each.path for each in self.lora))

    def vector_facts(self) -> Mapping[str, object]:
        """Return what of it changes vectors."""
        shaping = ("rope_", "yarn_", "cache_type_")
        asked = self.asked().items()
        facts = {name: value for name, value in asked if name.startswith(shaping) and value != _DEFAULT_CACHE}
        if self.lora:
            facts["lora"] = [[each.digest, each.scale] for each in self.lora]
        return facts


#: Field of ``Features`` -> the key in ``[models.NAME]`` where the two differ.
KEYS: Mapping[str, str] = {
    **dict.fromkeys(("cache_type_k", "cache_type_v"), "cache_type"),
    **dict.fromkeys(("rope_scaling", "rope_freq_base", "rope_freq_scale"), "rope"),
    **dict.fromkeys(
        ("yarn_orig_ctx", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"), "yarn"
    ),
    "chat_template_file": "chat_template with a file",
}
