"""The settings. The dataclasses below are the schema that ``config_reading`` reads by.

A field is a key, its annotation the type, its default the default.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamafile_mgr.addresses import RemoteConfig, read_host, read_origin
from llamafile_mgr.engine_settings import CACHE_TYPES, LoraConfig, RopeConfig, YarnConfig
from llamafile_mgr.errors import ConfigError

_INPUT_TYPES = ("query", "document", "none")


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """``[serve]``: the proxy and the engines behind it.

    ``embed``, ``generate``, ``rerank``: names of the models to run, of each role first its default.
    ``load_stall_seconds``: how long a loading engine may stay silent. ``liveness_seconds``: how long a ready
    one may, while it owes answers, until it is replaced. ``drain_seconds``: how long accepted calls may still
    take when stopping.
    ``max_body_bytes``: the largest request body; large ones of all clients together may have twice as much.
    ``max_connections``: of clients, at once. ``input_type``: what texts are whose caller does not say,
    ``query``, ``document`` or ``none``. ``cache_bytes``: disk for vectors of known texts, 0 keeps none.

    ``strict_models``: refuse names that are not served, also with one model. ``wait_seconds``: how long a
    call is held while its model loads; ``request_seconds``: how long it may take until its answer begins.
    ``queue_items``, ``queue_tokens``: texts and estimated tokens that a model's queue holds before callers
    are told to come back. ``memory_limit``: main memory that all engines may take, such as ``"8GB"``; for a
    model that is called and does not fit, the least recently used one that is neither busy nor pinned is
    unloaded.

    ``keys_file``: API keys, one ``[NAME ]KEY`` a line, readable by its owner alone; the key named ``admin``
    is the administrator's. Without it only loopback addresses are served. ``hosts``: further names that
    clients may call this machine by. ``cors_origins``: whose web pages may call (``https://example.org``).
    ``tls_certificate``, ``tls_key``: PEM files; with them the proxy speaks HTTPS alone.
    ``header_seconds``, ``idle_seconds``: how long a client may take for a request's head, and between two
    requests; ``body_idle_seconds``: within which a body has to go on, by 1,024 bytes for each second.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    embed: tuple[str, ...] = ()
    generate: tuple[str, ...] = ()
    rerank: tuple[str, ...] = ()
    load_stall_seconds: float = 120.0
    liveness_seconds: float = 10.0
    drain_seconds: float = 10.0
    max_body_bytes: int = 64 * 1024 * 1024
    max_connections: int = 4096
    input_type: str = "none"
    cache_bytes: int = 1024 * 1024 * 1024
    strict_models: bool = False
    wait_seconds: float = 600.0
    request_seconds: float = 3600.0
    queue_items: int = 16_384
    queue_tokens: int = 4_000_000
    memory_limit: str | None = None
    keys_file: str | None = None
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    tls_certificate: str | None = None
    tls_key: str | None = None
    header_seconds: float = 10.0
    body_idle_seconds: float = 30.0
    idle_seconds: float = 75.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"serve.port is {self.port}, outside 0 to 65535")
        for field_ in dataclasses.fields(self):
            value = getattr(self, field_.name)
            positive = field_.name.endswith("_seconds") or field_.name.startswith(("max_", "queue_"))
            if positive and value <= 0:
                raise ConfigError(f"serve.{field_.name} must be above zero")
        if self.input_type not in _INPUT_TYPES:
            raise ConfigError(
                f"serve.input_type is {self.input_type!r}", hint=f"it may be {', '.join(_INPUT_TYPES)}"
            )
        if self.memory_limit is not None:
            parse_size(self.memory_limit, "serve.memory_limit")
        if self.cache_bytes < 0:
            raise ConfigError("serve.cache_bytes must not be negative", hint="0 keeps no vectors")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("serve.tls_certificate and serve.tls_key belong together")
        for host in self.hosts:
            read_host(host)
        for origin in self.cors_origins:
            read_origin(origin)


@dataclass(frozen=True, slots=True)
class DownloadConfig:
    """``[download]``: how bytes arrive.

    ``jobs``: connections per file, 0 adapts to the link. ``limit_rate``: bytes a second over all
    connections, 0 for no limit. ``offline``: never open a connection. ``retries``: failures in a row
    without progress before giving up; ``retry_seconds``: the longest first wait, which doubles.
    ``stall_seconds``, ``minimum_speed``: a connection that stays below so many bytes a second for so
    long is dropped and opened anew.
    """

    jobs: int = 0
    limit_rate: int = 0
    offline: bool = False
    hf_endpoint: str = "https://huggingface.co"
    pypi_index: str = "https://pypi.org/simple"
    github_endpoint: str = "https://github.com"
    retries: int = 8
    retry_seconds: float = 0.5
    stall_seconds: float = 20.0
    minimum_speed: int = 1024

    def __post_init__(self) -> None:
        if not 0 <= self.jobs <= 16:
            raise ConfigError(f"download.jobs is {self.jobs}, outside 0 to 16")
        if self.limit_rate < 0:
            raise ConfigError("download.limit_rate must not be negative")
        if self.retries < 0 or self.minimum_speed < 0:
            raise ConfigError("download.retries and download.minimum_speed must not be negative")
        if self.retry_seconds <= 0 or self.stall_seconds <= 0:
            raise ConfigError("download.retry_seconds and download.stall_seconds must be above zero")


@dataclass(frozen=True, slots=True)
class EnginesConfig:
    """``[engines]``: engines that are installed beside this package.

    ``programs``: paths or names of programs to run models with, before any other engine. ``search_path``:
    look for further ones on PATH.
    """

    programs: tuple[str, ...] = ()
    search_path: bool = True

    def __post_init__(self) -> None:
        if not all(program.strip() and "\0" not in program for program in self.programs):
            raise ConfigError("engines.programs has an empty name", hint='programs = ["llama-server"]')


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """``[models.NAME]``: what the planner must not choose for one model; unset keys stay its choice.

    ``context``: tokens. ``threads``: compute threads of one engine. ``replicas``: engines of this model.
    ``idle_unload``: end the engines after so long without calls, such as ``"10m"``; a call starts them.
    ``pinned``: never end them to make room for another model (embedding models are pinned by default).
    ``require_gpu``: fail instead of computing without the planned GPU.
    ``memory_limit``: replace an engine that grows beyond it, such as ``"2GB"``. ``aliases``: further names
    that callers may use. ``remote``: engines elsewhere that serve the same model, a URL or a table of
    ``RemoteConfig``'s keys each; with ``replicas = 0`` none is started here.

    What an engine can do besides, where its family can; a file is a name of the store, a path, or a source
    as ``pull`` takes it. ``mmproj``: the projector with which a model sees images. ``lora``: adapters, a file
    or a table of ``LoraConfig``'s keys each. ``draft``: a small model of the same vocabulary that guesses
    ahead. ``cache_type``: of the key/value cache, such as ``"q8_0"``, or of keys and of values. ``rope``,
    ``yarn``: rotary positions. ``chat_template``: the name of a built-in one, or a file.
    ``reasoning_budget``: tokens of thinking, 0 for none, -1 for any number. ``engine_args``: further flags of
    the engine, of those that its family allows.
    What is refused unless it is accepted here, on purpose. ``allow_known_bad``: run the file's own engine
    although it is known to be bad for this model. ``least_cosine``: serve weights whose vectors are as far
    from the model's known ones as this, where their quantisation alone would not explain it.
    ``any_meaning``: serve a model for which English texts that mean the same are no nearer than others.
    """

    context: int | None = None
    threads: int | None = None
    slots: int | None = None
    replicas: int | None = None
    idle_unload: str | None = None
    pinned: bool | None = None
    require_gpu: bool = False
    memory_limit: str | None = None
    aliases: tuple[str, ...] = ()
    remote: tuple[RemoteConfig, ...] = ()
    mmproj: str | None = None
    lora: tuple[LoraConfig, ...] = ()
    draft: str | None = None
    cache_type: tuple[str, ...] = ()
    rope: RopeConfig | None = None
    yarn: YarnConfig | None = None
    chat_template: str | None = None
    reasoning_budget: int | None = None
    engine_args: tuple[str, ...] = ()
    allow_known_bad: bool = False
    least_cosine: float | None = None
    any_meaning: bool = False

    def __post_init__(self) -> None:
        for name in ("context", "threads", "slots", "replicas"):
            value = getattr(self, name)
            least = 0 if name == "replicas" and self.remote else 1
            if value is not None and value < least:
                raise ConfigError(f"models.*.{name} must be at least {least}")
        if self.least_cosine is not None and not 0 <= self.least_cosine <= 1:
            raise ConfigError(f"models.*.least_cosine is {self.least_cosine}, outside 0 to 1")
        if not all(self.aliases):
            raise ConfigError("models.*.aliases has an empty name")
        names = [remote.name for remote in self.remote]
        if len(set(names)) != len(names):
            raise ConfigError("models.*.remote names the same address twice")
        for name, parse in (("idle_unload", parse_duration), ("memory_limit", parse_size)):
            text = getattr(self, name)
            if text is not None:
                parse(text, f"models.*.{name}")
        self._check_features()

    @property
    def files(self) -> dict[str, str]:
        """Return the files that are named, by what they are: ``mmproj``, ``draft``, ``lora-1`` and so on."""
        loras = {f"lora-{number}": each.file for number, each in enumerate(self.lora, 1)}
        return {key: name for key in ("mmproj", "draft") if (name := getattr(self, key)) is not None} | loras

    def _check_features(self) -> None:
        for name in ("mmproj", "draft", "chat_template"):
            if getattr(self, name) == "":
                raise ConfigError(f"models.*.{name} is empty")
        if len(self.cache_type) > 2 or not set(self.cache_type) <= set(CACHE_TYPES):
            raise ConfigError(
                f"models.*.cache_type is {', '.join(self.cache_type)}",
                hint=f"one type, or one for keys and one for values: {', '.join(CACHE_TYPES)}",
            )
        if self.reasoning_budget is not None and self.reasoning_budget < -1:
            raise ConfigError("models.*.reasoning_budget must be at least -1", hint="-1 sets no limit")
        if self.yarn is not None and self.rope is not None and (self.rope.scaling or self.rope.scale):
            raise ConfigError(
                "models.*.rope and yarn both scale positions", hint="with yarn, rope may hold freq_base alone"
            )


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, merged. ``source`` is the file that was read, if any."""

    serve: ServeConfig = field(default_factory=ServeConfig)
    download: DownloadConfig = field(default_factory=DownloadConfig)
    engines: EnginesConfig = field(default_factory=EnginesConfig)
    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    source: Path | None = None


_DURATIONS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d*)?|\.\d+)\s*([kmgt]?)(i?b)?", re.ASCII)


def parse_duration(text: str, name: str) -> float:
    """Return the seconds of a text such as ``90s``, ``10m``, ``1.5h`` or ``2d``. Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip(), re.ASCII)
    if found is None or not 0 < float(found.group(1)) < math.inf:
        raise ConfigError(f"{name} is {text!r}, no duration", hint='write it like "10m" (s, m, h or d)')
    return float(found.group(1)) * _DURATIONS[found.group(2)]


def parse_size(text: str, name: str) -> int:
    """Return the bytes of a text such as ``500MB``, ``2GiB`` or ``8G``. Raises ConfigError."""
    found = _SIZE.fullmatch(text.strip().lower())
    base = 1024 if found and found[3] == "ib" else 1000
    size = int(float(found[1]) * base ** ("", "k", "m", "g", "t").index(found[2])) if found else 0
    if size == 0:
        raise ConfigError(f"{name} is {text!r}, no size", hint='write it like "2GB" or "500MiB"')
    return size
