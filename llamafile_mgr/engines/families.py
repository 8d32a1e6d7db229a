"""The protocol that every engine family keeps, and the table of families.

A family knows its flags, its health route and its HTTP shapes, and nothing else. Adding one touches this
table and one new module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors
from llamafile_mgr.engines.settings import LaunchSettings
from llamafile_mgr.engines.v1 import V1
from llamafile_mgr.engines.v2 import V2
from llamafile_mgr.engines.v10 import V10, Embedded
from llamafile_mgr.llamafile.family import Family

__all__ = ["EngineFamily", "family_rules"]


class EngineFamily(Protocol):
    """How one generation of engines is told (flags) and asked (HTTP); pure, without sockets."""

    @property
    def family(self) -> Family:
        """Return which generation this is."""

    @property
    def max_texts(self) -> int:
        """Return how many texts one embedding request may carry."""

    @property
    def picks_port(self) -> bool:
        """Tell whether ``--port 0`` makes the engine take a free port and print it."""

    @property
    def protects_embeddings(self) -> bool:
        """Tell whether the API key guards the embedding routes too."""

    def arguments(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags after the program's name."""

    def health(self) -> EngineRequest:
        """Return the cheapest request that an engine answers once its model is loaded."""

    def embed(self, texts: Sequence[str]) -> EngineRequest:
        """Return the request for the vectors of at most ``max_texts`` texts."""

    def read_vectors(self, reply: EngineReply, count: int) -> EngineVectors:
        """Return the vectors of a reply to ``embed``.

        Raises:
            EngineError: anything but ``count`` vectors of one width.
        """

    def tokenize(self, text: str) -> EngineRequest:
        """Return the request for the token ids of ``text``, with special tokens where the family can."""

    def read_tokens(self, reply: EngineReply) -> list[int]:
        """Return the token ids of a reply to ``tokenize``. Raises EngineError."""


_FAMILIES: dict[Family, EngineFamily] = {
    Family.V1: V1(),
    Family.V2: V2(),
    Family.V10: V10(),
    Family.EMBEDDED: Embedded(),
}


def family_rules(family: Family) -> EngineFamily:
    """Return the rules of ``family``."""
    return _FAMILIES[family]
