"""Dataclasses from the plain values of JSON and TOML: annotations are the schema, all is checked."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from enum import Enum

_T = typing.TypeVar("_T")


class FieldError(ValueError):
    """A value that does not fit. ``name``: its place, as ``machine.gpus[0]``; ``problem``: what is wrong."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} {problem}")
        self.name = name
        self.problem = problem


def read_record(values: object, cls: type[_T], name: str) -> _T:
    """Return the ``cls`` that ``values`` describe; ``name``: what errors call it.

    Fields may be texts, numbers that are neither negative nor infinite, true or false, enums by their values,
    ISO dates, dataclasses, tuples of one of these, or one of these or None.

    Raises:
        FieldError: an unknown key, a missing one, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise FieldError(name, "must be an object")
    hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable
    unknown = [key for key in values if key not in hints]
    if unknown:
        raise FieldError(name, f"has the unknown key {unknown[0]}")
    fields = {key: _read(value, hints[key], f"{name}.{key}") for key, value in values.items()}
    try:
        return cls(**fields)
    except TypeError as error:
        raise FieldError(name, f"is incomplete: {error}") from error


@functools.cache
def _hints(cls: type) -> dict[str, object]:
    return typing.get_type_hints(cls)


def _read(value: object, hint: object, name: str) -> object:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise FieldError(name, "must be a list")
        item = typing.get_args(hint)[0]
        return tuple(_read(each, item, f"{name}[{i}]") for i, each in enumerate(value))
    if not isinstance(hint, type):
        raise TypeError(f"no rule for {hint!r}")
    if dataclasses.is_dataclass(hint):
        return read_record(value, hint, name)
    return _read_scalar(value, hint, name)


def _read_scalar(value: object, kind: type, name: str) -> object:
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            words = ", ".join(str(member.value) for member in kind)
            raise FieldError(name, f"is {value!r}, not one of {words}") from None
    if issubclass(kind, datetime) and isinstance(value, str):
        try:
            return kind.fromisoformat(value)
        except ValueError:
            raise FieldError(name, f"is {value!r}, which is no date") from None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise FieldError(name, f"is {value!r}, which has the wrong type")
    if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
        raise FieldError(name, f"is {value!r}, which cannot be")
    return value
