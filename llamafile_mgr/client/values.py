"""What the client gives back."""

from __future__ import annotations

import array
import base64
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class EmbedArguments(TypedDict, total=False):
    """How texts are embedded; what is left out or None is the server's choice.

    ``input_type``: ``query``, ``document`` or ``none``. ``truncate``: ``error``, ``right``, ``left`` or
    ``chunk``. ``dimensions``: of the vectors, for models that can be cut. ``if_vector_space``: fail with
    ``VectorSpaceError`` when the vectors would be of another space than this fingerprint. ``task``: for
    models whose prompt names one. ``use_cache``: take known vectors from the server's cache.
    """

    model: str | None
    input_type: str | None
    truncate: str | None
    dimensions: int | None
    if_vector_space: str | None
    task: str | None
    use_cache: bool


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why one text has no vector. ``code`` is a stable word, such as ``context_length_exceeded``."""

    index: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a text, ``text[start:end]``, that fits the model. ``row``: its vector, in base64."""

    start: int
    end: int
    row: str

    @property
    def vector(self) -> list[float]:
        """Return its vector."""
        return _decode(self.row)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors in the order of the texts.

    ``rows``: little-endian float32 as base64, None for a text that failed. ``truncated``: the indices of
    texts that were cut. ``vector_space``: the fingerprint that all share; None when there were no texts.
    ``chunks``: where they were asked for, the pieces of every text, which together cover it; one for a text
    that fits, none for one that failed.
    """

    rows: tuple[str | None, ...]
    errors: tuple[ItemError, ...]
    truncated: tuple[int, ...]
    model: str | None
    vector_space: str | None
    prompt_tokens: int
    chunks: tuple[tuple[Chunk, ...], ...] = ()

    @property
    def vectors(self) -> list[list[float] | None]:
        """Return a list of numbers a text, None for one that failed."""
        return [None if row is None else _decode(row) for row in self.rows]

    def as_numpy(self) -> NDArray[np.float32]:
        """Return an array of shape (texts, dimensions); the row of a text that failed is NaN.

        Without any vector its shape is (texts, 0).
        """
        import numpy as np

        found = {i: np.frombuffer(base64.b64decode(row), "<f4") for i, row in enumerate(self.rows) if row}
        width = len(next(iter(found.values()))) if found else 0
        matrix = np.full((len(self.rows), width), np.nan, np.float32)
        for index, vector in found.items():
            matrix[index] = vector
        return matrix


def _decode(row: str) -> list[float]:
    numbers = array.array("f", base64.b64decode(row))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model. ``max_tokens``: of one text. ``vector_space``, ``dimensions``: of embedding models.

    ``slots``: how many texts one of its engines computes together; with 1 a text's vector always has the same
    bits, unless ``remotes`` of other machines have a part in it.
    """

    name: str
    role: str
    ready: bool
    dimensions: int | None
    max_tokens: int | None
    vector_space: str | None
    slots: int | None = None
    remotes: int = 0


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document of a rerank call: its index there and its score; higher fits better."""

    index: int
    score: float
