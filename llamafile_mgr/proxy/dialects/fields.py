"""Reading the texts and the optional fields that dialects share, whatever each calls them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from llamafile_mgr.embedding.requests import InputType, Truncation
from llamafile_mgr.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Word = TypeVar("_Word")
#: Asks for the pieces of long texts instead of their mean alone.
CHUNKS_FIELD = "return_chunks"
#: Cohere, Voyage, Jina, NVIDIA and Nomic each have words of their own for the same two things.
_INPUT_TYPES: dict[str, InputType] = {
    "query": InputType.QUERY,
    "search_query": InputType.QUERY,
    "retrieval.query": InputType.QUERY,
    "document": InputType.DOCUMENT,
    "passage": InputType.DOCUMENT,
    "search_document": InputType.DOCUMENT,
    "retrieval.passage": InputType.DOCUMENT,
    "none": InputType.NONE,
    "classification": InputType.NONE,
    "clustering": InputType.NONE,
    "separation": InputType.NONE,
    "text-matching": InputType.NONE,
}

#: Cohere names the end that is discarded, TEI the direction from which it is.
_TRUNCATIONS: dict[str, Truncation] = {
    "none": Truncation.ERROR,
    "error": Truncation.ERROR,
    "end": Truncation.RIGHT,
    "right": Truncation.RIGHT,
    "start": Truncation.LEFT,
    "left": Truncation.LEFT,
    "chunk": Truncation.CHUNK,
}


def read_input_type(body: Mapping[str, Any], *keys: str) -> InputType | None:
    """Return what the first of ``keys`` in the body says the texts are, None when none is there.

    Raises:
        RequestError: a word that nobody uses.
    """
    key = _first(body, keys)
    return None if key is None else _read_word(body, key, _INPUT_TYPES, "use one of")


def read_truncation(body: Mapping[str, Any], *keys: str, default: Truncation) -> Truncation:
    """Return what happens to texts that are too long: a word, or true for cutting the end.

    Raises:
        RequestError: anything else.
    """
    key = _first(body, keys)
    if key is None:
        return default
    if isinstance(body[key], bool):
        return Truncation.RIGHT if body[key] else Truncation.ERROR
    return _read_word(body, key, _TRUNCATIONS, "use true, false or one of")


def _first(body: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((key for key in keys if key in body), None)


def _read_word(body: Mapping[str, Any], key: str, words: Mapping[str, _Word], advice: str) -> _Word:
    value = body[key]
    word = words.get(value.lower()) if isinstance(value, str) else None
    if word is None:
        raise RequestError(f"{key!r} is {_show(value)}", hint=f"{advice} {', '.join(words)}")
    return word


def read_dimensions(body: Mapping[str, Any], *keys: str) -> int | None:
    """Return the width that vectors shall be cut to. Raises RequestError."""
    key = _first(body, keys)
    return None if key is None else read_whole_number(body, key, least=1)


def read_whole_number(body: Mapping[str, Any], key: str, *, least: int = 0) -> int:
    """Return ``body[key]``, a whole number of at least ``least``. Raises RequestError."""
    value = body[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RequestError(f"{key!r} must be a whole number from {least}, not {_show(value)}")
    return value


def refuse_chunks(body: Mapping[str, Any]) -> None:
    """Raise RequestError when a body of a dialect without chunks asks for them."""
    if read_flag(body, CHUNKS_FIELD):
        raise RequestError(
            f"answers of this form have no room for chunks, which {CHUNKS_FIELD!r} asks for",
            hint='send {"input": ...} to /v1/embeddings',
        )


def read_flag(body: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    """Return ``body[key]`` as true or false. Raises RequestError."""
    value = body.get(key, default)
    if not isinstance(value, bool):
        raise RequestError(f"{key!r} must be true or false, not {_show(value)}")
    return value


def read_text(body: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """Return the text under ``key``. Raises RequestError."""
    value = body.get(key, default)
    if value is None:
        raise RequestError(f"the body has no {key!r}")
    if not isinstance(value, str):
        raise RequestError(f"{key!r} must be a text")
    return value


def _show(value: object) -> str:
    return repr(value)[:60]


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
