"""Settings: one TOML file, overridden by ``LLAMAFILE_MGR_*`` variables, overridden by flags.

The dataclasses below are the schema: a field is a key, its annotation the type, its default the
default. ``[serve] port`` is the variable ``LLAMAFILE_MGR_SERVE_PORT`` and the flag ``--port``.
Tables of models (``[models.NAME]``) have no variables.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamafile_mgr.addresses import RemoteConfig
from llamafile_mgr.engine_settings import CACHE_TYPES, LoraConfig, RopeConfig, YarnConfig
from llamafile_mgr.errors import ConfigError

CONFIG_VARIABLE = "LLAMAFILE_MGR_CONFIG"
_PREFIX = "LLAMAFILE_MGR_"
#: Variables of other rooms that share the prefix and are no settings.
_RESERVED = frozenset({CONFIG_VARIABLE, "LLAMAFILE_MGR_HOME", "LLAMAFILE_MGR_PYTHON", "LLAMAFILE_MGR_DEBUG"})
_INPUT_TYPES = ("query", "document", "none")
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


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
        for origin in self.cors_origins:
            if "://" not in origin or "*" in origin:
                raise ConfigError(f"serve.cors_origins: {origin!r} is no origin", hint="https://example.org")


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
    if found is None or float(found.group(1)) == 0:
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


_SECTIONS: dict[str, type[ServeConfig] | type[DownloadConfig] | type[EnginesConfig]] = {
    "serve": ServeConfig,
    "download": DownloadConfig,
    "engines": EnginesConfig,
}


def load_config(
    default_file: Path,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Config:
    """Merge defaults, the TOML file, the environment and flags into one ``Config``.

    ``file`` (or ``LLAMAFILE_MGR_CONFIG``) must exist, ``default_file`` need not. ``flags`` maps
    ``section.key`` to a value; ``None`` means that the flag was not given.

    Raises:
        ConfigError: unreadable file, broken TOML, an unknown key or a value of the wrong type.
    """
    env = os.environ if environ is None else environ
    named = file or (Path(env[CONFIG_VARIABLE]) if env.get(CONFIG_VARIABLE) else None)
    source = named or (default_file if default_file.is_file() else None)
    table = _read_toml(source) if source else {}
    where = str(source)
    for key in table:
        if key not in (*_SECTIONS, "models"):
            raise _unknown_key(key, (*_SECTIONS, "models"), where)

    values: dict[str, dict[str, object]] = {name: {} for name in _SECTIONS}
    for name, cls in _SECTIONS.items():
        values[name].update(_read_table(table.get(name, {}), cls, name, where))
    for section, key, text in _read_environ(env):
        values[section][key] = text
    for dotted, value in (flags or {}).items():
        section, _, key = dotted.partition(".")
        if value is not None:
            values[section][key] = _convert(
                value, _hints(_SECTIONS[section])[key], dotted, "the command line"
            )

    models = table.get("models", {})
    if not isinstance(models, dict):
        raise ConfigError(f"models in {where} must be a table", hint='write [models."NAME"]')
    return Config(
        serve=ServeConfig(**values["serve"]),  # type: ignore[arg-type]
        download=DownloadConfig(**values["download"]),  # type: ignore[arg-type]
        engines=EnginesConfig(**values["engines"]),  # type: ignore[arg-type]
        models={name: _read_model(name, entry, where) for name, entry in models.items()},
        source=source,
    )


def _read_model(name: str, entry: object, where: str) -> ModelConfig:
    values = _read_table(entry, ModelConfig, f"models.{name}", where)
    try:
        return ModelConfig(**values)  # type: ignore[arg-type]
    except ConfigError as error:
        # The class does not know whose settings it holds.
        raise ConfigError(error.message.replace("models.*", f"models.{name}", 1), hint=error.hint) from None


def _read_toml(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file {path}") from error
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}", hint="mend that line, or move the file away"
        ) from error


def _read_table(table: object, cls: type, section: str, where: str) -> dict[str, object]:
    if not isinstance(table, dict):
        raise ConfigError(f"{section} in {where} must be a table", hint=f"write [{section}]")
    hints = _hints(cls)
    for key in table:
        if key not in hints:
            raise _unknown_key(key, hints, f"[{section}] of {where}")
    return {key: _convert(value, hints[key], f"{section}.{key}", where) for key, value in table.items()}


def _read_environ(env: Mapping[str, str]) -> list[tuple[str, str, object]]:
    known = {
        f"{_PREFIX}{section}_{key}".upper(): (section, key, hint)
        for section, cls in _SECTIONS.items()
        for key, hint in _hints(cls).items()
    }
    found: list[tuple[str, str, object]] = []
    for name, text in sorted(env.items()):
        if not name.startswith(_PREFIX) or name in _RESERVED:
            continue
        if name not in known:
            raise _unknown_key(name, (*known, *_RESERVED), "the environment")
        section, key, hint = known[name]
        found.append((section, key, _convert_text(text, hint, name)))
    return found


def _hints(cls: type) -> dict[str, object]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _base_type(hint: object) -> type:
    """Return T for ``T`` and for ``T | None``."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if not isinstance(hint, type):
        raise TypeError(f"no rule for settings of type {hint!r}")
    return hint


def _convert(value: object, hint: object, name: str, where: str) -> object:
    if hint == tuple[str, ...]:
        if isinstance(value, str):
            return (value,)
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ConfigError(f"{name} in {where} must be a text or a list of texts")
    if hint == tuple[RemoteConfig, ...]:
        return _read_tables(value, RemoteConfig, "url", name, where)
    if hint == tuple[LoraConfig, ...]:
        listed = value if isinstance(value, list) else [value]
        return _read_tables(listed, LoraConfig, "file", name, where)
    kind = _base_type(hint)
    if dataclasses.is_dataclass(kind):
        return _read_keys(value, kind, name, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(
            f"{name} in {where} must be {_describe(kind)}, not {type(value).__name__} {value!r}"
        )
    return value


def _read_tables(value: object, cls: type, main: str, name: str, where: str) -> tuple[object, ...]:
    """Return values of ``cls`` from a list of tables, and of texts that stand for their ``main`` key."""
    if not isinstance(value, list):
        example = {"url": 'remote = ["http://gpu-box:8080"]'}.get(main)
        raise ConfigError(f"{name} in {where} must be a list", hint=example)
    return tuple(
        _read_keys({main: entry} if isinstance(entry, str) else entry, cls, name, where) for entry in value
    )


def _read_keys(table: object, cls: type, name: str, where: str) -> object:
    """Return a value of ``cls`` from a table that has at least the keys without a default."""
    values = _read_table(table, cls, name, where)
    for each in dataclasses.fields(cls):
        if each.default is dataclasses.MISSING and each.name not in values:
            raise ConfigError(f"{name} in {where} has a table without a {each.name}")
    return cls(**values)


def _convert_text(text: str, hint: object, name: str) -> object:
    if hint == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    kind = _base_type(hint)
    try:
        if kind is bool:
            lowered = text.strip().lower()
            if lowered not in _TRUE | _FALSE:
                raise ValueError(text)
            return lowered in _TRUE
        return kind(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r} must be {_describe(kind)}") from None


def _describe(kind: type) -> str:
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number of seconds",
        str: "a text",
    }[kind]


def _unknown_key(key: str, known: typing.Iterable[str], where: str) -> ConfigError:
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"unknown key {key} in {where}", hint=hint)
