"""Who computes the vectors of a bulk job: a running proxy, or engines of this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.bulk.text_records import TextResult
from llamafile_mgr.embedding.requests import InputType, Truncation


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """What is asked for every text of a job; see ``EmbedRequest``.

    ``use_cache``: take vectors of known texts from the proxy's cache. They were perhaps computed together
    with other texts, so that two jobs need not agree in the last bits.
    """

    input_type: InputType | None = None
    truncation: Truncation = Truncation.ERROR
    dimensions: int | None = None
    task: str | None = None
    use_cache: bool = False


class OneSpace(Protocol):
    """Whatever gives vectors of one model in one vector space. ``dimensions``: None where nothing tells."""

    @property
    def model(self) -> str:
        """Return the model's name."""

    @property
    def vector_space(self) -> str:
        """Return the fingerprint of its vectors."""

    @property
    def dimensions(self) -> int | None:
        """Return how wide vectors are."""


class VectorSource(OneSpace, Protocol):
    """Embeds texts. ``exact``: a text's vector has the same bits in whatever company it is computed."""

    @property
    def exact(self) -> bool:
        """Tell whether equal texts always get equal bytes."""

    async def embed(self, texts: Sequence[str]) -> list[TextResult]:
        """Return one result per text, in order.

        Raises:
            CheckpointError: the vectors are of another space by now.
            NotReadyError: the model did not become ready, or the proxy did not answer.
            Error: nothing like these texts can be embedded.
        """


class NodeSource(VectorSource, Protocol):
    """A source that can be compared with others of the same model on other machines."""

    @property
    def quantisation(self) -> str | None:
        """Return the type of its weights, None when nothing tells."""

    async def probe(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts without a prompt and uncut, a row each. Raises Error."""
