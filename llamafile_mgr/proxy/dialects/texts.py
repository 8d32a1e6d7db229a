"""Reading the texts of a request, one or many, and writing a vector as text."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from llamafile_mgr.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["encode_base64", "read_texts"]


def read_texts(
    body: dict[str, Any], key: str, *, least: int = 1, advice: str = "send texts"
) -> tuple[tuple[str, ...], bool]:
    """Return the texts under ``key``, at least ``least``, and whether they came as a list.

    ``advice``: for whoever sends token ids.

    Raises:
        RequestError: missing, empty, token ids, or anything that is no text.
    """
    if key not in body:
        raise RequestError(f"the body has no {key!r}", hint=f'send {{"{key}": "text"}} or a list of texts')
    value = body[key]
    if isinstance(value, str):
        return (value,), False
    if not isinstance(value, list):
        raise RequestError(f"{key!r} must be a text or a list of texts, not {_name(value)}")
    if len(value) < least:
        raise RequestError(f"{key!r} is an empty list", hint="send at least one text")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise _bad_item(key, index, item, advice)
    return tuple(value), True


def _bad_item(key: str, index: int, item: object, advice: str) -> RequestError:
    if isinstance(item, int) or (isinstance(item, list) and all(isinstance(part, int) for part in item)):
        said = f"{key!r} holds token ids, which belong to the vocabulary of another model"
        return RequestError(said, hint=advice)
    return RequestError(f"item {index} of {key!r} must be a text, not {_name(item)}")


def _name(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def encode_base64(vector: NDArray[np.float32]) -> str:
    """Return the vector's bytes as little-endian float32 in base64 without line breaks."""
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")
