"""Reading the settings: one TOML file, overridden by ``LLAMAFILE_MGR_*`` variables, overridden by flags.

``[serve] port`` is the variable ``LLAMAFILE_MGR_SERVE_PORT`` and the flag ``--port``. Tables of models
(``[models.NAME]``) have no variables. An empty variable of a setting that is no list is as good as none.
"""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import math
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path

from llamafile_mgr.addresses import RemoteConfig
from llamafile_mgr.config import Config, DownloadConfig, EnginesConfig, ModelConfig, ServeConfig
from llamafile_mgr.engine_settings import LoraConfig
from llamafile_mgr.errors import ConfigError

CONFIG_VARIABLE = "LLAMAFILE_MGR_CONFIG"
_PREFIX = "LLAMAFILE_MGR_"
#: Variables of other rooms that share the prefix and are no settings.
_RESERVED = frozenset({CONFIG_VARIABLE, "LLAMAFILE_MGR_HOME", "LLAMAFILE_MGR_PYTHON", "LLAMAFILE_MGR_DEBUG"})
#: What Kubernetes tells every container of a service: behind its name, beside its address.
_SERVICE_HOST = "_SERVICE_HOST"
_OF_A_SERVICE = re.compile(r"SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?", re.ASCII)
_SERVICE_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://")
#: Keys that hold a path wherever they stand, or a name that begins like none.
_PATHS = frozenset(
    {
        *("keys_file", "tls_certificate", "tls_key", "key_file", "ca_file"),
        *("mmproj", "draft", "chat_template", "file"),
    }
)
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})

_SECTIONS: dict[str, type[ServeConfig] | type[DownloadConfig] | type[EnginesConfig]] = {
    "serve": ServeConfig,
    "download": DownloadConfig,
    "engines": EnginesConfig,
}


def named_file(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the settings file that a flag names, else the one of the environment; None for the default."""
    told = file or environ.get(CONFIG_VARIABLE)
    return Path(os.path.expanduser(told)) if told else None


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
    named = named_file(file, env)
    source = named or (default_file if _is_there(default_file) else None)
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


def _is_there(path: Path) -> bool:
    """Tell whether a file is there; what cannot be looked at may be, and is told when it is read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _read_model(name: str, entry: object, where: str) -> ModelConfig:
    values = _read_table(entry, ModelConfig, f"models.{name}", where)
    try:
        return ModelConfig(**values)  # type: ignore[arg-type]
    except ConfigError as error:
        # The class does not know whose settings it holds.
        raise ConfigError(error.message.replace("models.*", f"models.{name}", 1), hint=error.hint) from None


def _read_toml(path: Path) -> dict[str, object]:
    try:
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ConfigError(f"{path} is written in UTF-16", hint="save it as UTF-8")
        return tomllib.loads(data.decode("utf-8-sig"))
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
    others = _RESERVED | _service_links(env)
    for name, text in sorted(env.items()):
        if not name.startswith(_PREFIX) or name in others:
            continue
        if name not in known:
            raise _unknown_key(name, (*known, *_RESERVED), "the environment")
        section, key, hint = known[name]
        if text.strip() or hint == tuple[str, ...]:
            found.append((section, key, _convert_text(text, hint, key, name)))
    return found


def _service_links(env: Mapping[str, str]) -> frozenset[str]:
    """Return the variables that Kubernetes wrote for services whose names begin with ``llamafile-mgr``.

    ``LLAMAFILE_MGR_PORT``, and of a service ``llamafile-mgr-serve`` even ``LLAMAFILE_MGR_SERVE_PORT``, hold
    an address, which no setting does.
    """
    links: set[str] = set()
    for host in (name for name in env if name.startswith(_PREFIX) and name.endswith(_SERVICE_HOST)):
        stem = host.removesuffix(_SERVICE_HOST) + "_"
        if _SERVICE_ADDRESS.match(env.get(f"{stem}PORT", "")):
            links.add(f"{stem}PORT")
        links |= {n for n in env if n.startswith(stem) and _OF_A_SERVICE.fullmatch(n.removeprefix(stem))}
    return frozenset(links)


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
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(
            f"{name} in {where} must be {_describe(kind)}, not {type(value).__name__} {value!r}"
        )
    return _finish(value, name.rpartition(".")[2], f"{name} in {where}")


def _finish(value: object, key: str, told: str) -> object:
    """Return a single value as it is meant; a path may begin with ``~``. Raises ConfigError."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{told} is {value}, no number to count with")
    if value == "" or (isinstance(value, str) and "\0" in value):
        raise ConfigError(f"{told} is {'empty' if not value else 'no text'}", hint="leave it out")
    if isinstance(value, str) and key in _PATHS:
        return os.path.expanduser(value)
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


def _convert_text(text: str, hint: object, key: str, name: str) -> object:
    if hint == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    kind = _base_type(hint)
    try:
        if kind is bool:
            lowered = text.strip().lower()
            if lowered not in _TRUE | _FALSE:
                raise ValueError(text)
            return lowered in _TRUE
        value = kind(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r} must be {_describe(kind)}") from None
    return _finish(value, key, name)


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
