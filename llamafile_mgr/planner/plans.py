"""The decision for one model on this machine, as a value: what runs, with which flags, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from llamafile_mgr.addresses import RemoteConfig
from llamafile_mgr.catalog import Model, Role
from llamafile_mgr.engines.engine_features import Features
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.planner.memory import MemoryEstimate


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one thing was chosen: the setting's name, its value as shown, and the rule behind it."""

    setting: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the settings of a model let pass that is refused otherwise.

    ``known_bad``: what is wrong with the engine that runs it all the same. ``least_cosine``, ``any_meaning``:
    as in the settings.
    """

    known_bad: str | None = None
    least_cosine: float | None = None
    any_meaning: bool = False

    def describe(self) -> tuple[str, ...]:
        """Return a sentence for each, for people."""
        told: list[str] = []
        if self.known_bad is not None:
            told.append(f"{self.known_bad}; allow_known_bad accepts that")
        if self.least_cosine is not None:
            told.append(f"least_cosine accepts a cosine of {self.least_cosine:g} with the known vectors")
        if self.any_meaning:
            told.append("any_meaning accepts vectors whatever they say of English texts")
        return tuple(told)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one model will be launched.

    ``name``: what callers call it. ``weights_digest``: sha256 of the file that holds the weights, None for
    one that was named by its path and not pulled. ``program``: the argv in front of the flags.
    ``max_tokens``: the longest text an embedding engine takes, special tokens included; of a reranker, query
    and document together. ``dimensions``: of its vectors. ``replicas``: engines that are started alike.
    ``memory``: what they will take. ``remotes``: engines elsewhere that stand beside them. ``device``: the
    GPUs' names or ``cpu``. ``layers``: how many lie on GPUs, of how many; None without a GPU.
    ``accelerated``: GPUs that are worth their while hold all of it. ``append_eos``: the model wants the
    end-of-sequence text behind every text and this engine does not put it there. ``features``: what the
    model's settings ask for. ``vector_arguments``: of their further flags, those that change vectors.
    ``tuned``: settings come from a measurement on this machine.
    ``crowded``: the machine has room for it, but not now. ``warnings``: what works, but not well; what is
    ``accepted`` is among them.
    """

    name: str
    role: Role
    family: Family
    program: tuple[str, ...]
    settings: LaunchSettings
    environment: Mapping[str, str]
    reasons: tuple[Reason, ...]
    path: Path
    weights_digest: str | None = None
    quantisation: str | None = None
    model: Model | None = None
    dimensions: int | None = None
    max_tokens: int | None = None
    replicas: int = 1
    memory: MemoryEstimate | None = None
    device: str = "cpu"
    layers: tuple[int, int] | None = None
    accelerated: bool = False
    crowded: bool = False
    append_eos: bool = False
    tuned: bool = False
    warnings: tuple[str, ...] = ()
    remotes: tuple[RemoteConfig, ...] = ()
    features: Features = field(default_factory=Features)
    vector_arguments: tuple[str, ...] = ()
    accepted: Acceptance = Acceptance()

    def command(self, port: int, api_key_file: Path | None) -> tuple[str, ...]:
        """Return the whole argv for this port and key file."""
        settings = replace(self.settings, port=port, api_key_file=api_key_file)
        return (*self.program, *family_rules(self.family).command_flags(settings))
