"""What a plan wants of an engine, in words that no family owns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.catalog import Pooling, Role


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """The settings of one engine; None leaves a thing to the engine.

    ``context``: tokens per slot. ``batch``: tokens per physical batch. ``slots``: texts at once.
    ``threads``: compute threads; ``batch_threads``: for prompts, where they are more. ``gpu``: the word for
    ``--gpu``, ``"disable"`` for the CPU alone.
    ``gpu_layers``: for engines without an automatic fit. ``gpu_required``: rather none than one without its
    GPU. ``flash_attention``: on or off, where the family
    can be told. ``prompt_cache_mib``: the most memory for conversations that are remembered, where the
    family has such a cache. ``model``: weights to load instead of those inside the file that is run.
    ``repack``: False keeps weights as they are in the file, where the family would arrange them anew.
    ``port``: 0 lets the engine pick one, where the family can. ``known_flags``: what the program's own help
    lists: a flag (``-fa``), that it takes a value (``-fa *``), and each value that is listed (``-fa on``);
    None where its release tells. ``asked``: the words that the model's settings ask for, in the family's own
    flags; they stand last.
    """

    role: Role
    port: int
    context: int
    threads: int
    batch_threads: int | None = None
    slots: int = 1
    batch: int | None = None
    pooling: Pooling | None = None
    gpu: str | None = None
    gpu_layers: int | None = None
    gpu_required: bool = False
    flash_attention: bool | None = None
    prompt_cache_mib: int | None = None
    repack: bool | None = None
    model: Path | None = None
    alias: str | None = None
    api_key_file: Path | None = None
    host: str = "127.0.0.1"
    known_flags: frozenset[str] | None = None
    asked: tuple[str, ...] = ()


def given(flag: str, value: object) -> tuple[str, ...]:
    """Return the flag with its value, nothing where the value is left to the engine."""
    return () if value is None else (flag, str(value))


def gpu_flags(settings: LaunchSettings) -> tuple[str, ...]:
    """Return the flags that say where to compute, as every llamafile takes them."""
    return (*given("--gpu", settings.gpu), *given("-ngl", settings.gpu_layers))


def thread_flags(settings: LaunchSettings) -> tuple[str, ...]:
    """Return the flags for the threads of generation and, without which releases from 0.8.17 on take all
    cores for them, of prompts and embeddings (llamafile 0.9.3, ``common.h`` and ``flags.cpp``)."""
    threads = str(settings.threads)
    return ("-t", threads, "-tb", threads)


def name_flags(settings: LaunchSettings) -> tuple[str, ...]:
    """Return the flags for the model's name and the file of the key."""
    return (*given("--alias", settings.alias), *given("--api-key-file", settings.api_key_file))
