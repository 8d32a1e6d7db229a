"""The one canonical embedding request and its result; every dialect parses into and renders from these."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from llamafile_mgr.errors import Error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class InputType(StrEnum):
    """What a text is, which decides the prompt around it. ``NONE`` adds nothing."""

    QUERY = "query"
    DOCUMENT = "document"
    NONE = "none"


class Truncation(StrEnum):
    """What happens to a text with more tokens than the model takes.

    ``ERROR``: it is refused. ``RIGHT``, ``LEFT``: its end or its beginning is left out. ``CHUNK``: it is
    embedded in pieces, whose mean, weighted by length, stands for it.
    """

    ERROR = "error"
    RIGHT = "right"
    LEFT = "left"
    CHUNK = "chunk"


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts to embed, in order; at least one.

    ``input_type`` None: the configured default. ``task``: for prompts that name one; None takes the model's.
    ``dimensions``: cut vectors to these (models trained for it). ``keep_going``: report the texts that fail
    one by one instead of failing the call. ``use_cache``: vectors may come from the cache and be kept in it.
    ``return_chunks``: give the pieces of each text beside their mean.
    """

    texts: tuple[str, ...]
    input_type: InputType | None = None
    task: str | None = None
    truncation: Truncation = Truncation.ERROR
    dimensions: int | None = None
    keep_going: bool = False
    use_cache: bool = True
    return_chunks: bool = False


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of a text: characters ``start`` to ``end`` (code points, end excluded) of the caller's text,
    its unit vector, and its tokens where they were counted.

    The chunks of a text are in order and cover all of it but blanks and a prompt that it brought along.
    """

    start: int
    end: int
    vector: NDArray[np.float32]
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one text.

    ``tokens``: with prompt and special tokens, before any cut; None where nothing counted them.
    ``truncated``: how it was cut, None when it was not. ``chunks``: pieces embedded. ``error``: why it has no
    vector. ``cached``: its vector was known.
    """

    tokens: int | None = None
    truncated: Truncation | None = None
    chunks: int = 1
    error: Error | None = None
    cached: bool = False


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """``vectors``: float32 of shape (texts, dimensions), unit length, in the texts' order; NaN rows failed.

    ``outcomes``: one per text. ``prompt_tokens``: over all texts; ``estimated``: from the length of some of
    them, for nothing counted those.
    ``vector_space``: the fingerprint. ``chunks``: one tuple per text where they were asked for; it is empty
    for a text that failed, and has one chunk for a text that fits whole.
    """

    vectors: NDArray[np.float32]
    prompt_tokens: int
    vector_space: str
    outcomes: tuple[ItemOutcome, ...] = ()
    chunks: tuple[tuple[TextChunk, ...], ...] = ()
    estimated: bool = False
