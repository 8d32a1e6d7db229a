"""Who may take part in a job of one vector space: the same release, the same space, the golden vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr import __version__
from llamafile_mgr.bulk.references import Reference
from llamafile_mgr.bulk.vector_sources import NodeSource
from llamafile_mgr.errors import NotReadyError, VectorSpaceError


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node tells when it is ready. ``probes``: its vectors of the reference's texts, a row each.

    ``quantisation``: of its weights, None when they are not. ``niceness``: of its engines, 0 to 19 on POSIX;
    what is nicer gets less of the processors.
    """

    version: str
    model: str
    vector_space: str
    dimensions: int | None
    probes: NDArray[np.float32]
    quantisation: str | None = None
    niceness: int = 0


async def read_facts(source: NodeSource, texts: Sequence[str]) -> NodeFacts:
    """Return what a node of this process tells. Raises Error when it cannot embed ``texts``."""
    return NodeFacts(
        __version__,
        source.model,
        source.vector_space,
        source.dimensions,
        await source.probe(texts),
        source.quantisation,
        os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0,
    )


class Admission:
    """What nodes are compared with. What is not known at first, the first node decides for all others.

    ``vector_space``: which one they must have, None takes the first one's.
    """

    def __init__(self, vector_space: str | None, reference: Reference) -> None:
        self._vector_space = vector_space
        self.reference = reference

    def admit(self, facts: NodeFacts) -> None:
        """Let a node take part, or raise why not.

        Raises:
            NotReadyError: it runs another release.
            VectorSpaceError: its vector space, or its vectors, are others.
        """
        if facts.version != __version__:
            raise NotReadyError(f"it runs llamafile-mgr {facts.version}, not {__version__}")
        if self._vector_space is not None and facts.vector_space != self._vector_space:
            raise VectorSpaceError(
                f"its vector space is {facts.vector_space}, not {self._vector_space}",
                cause="its weights, pooling, prompts or engine generation are others",
            )
        self.reference = self.reference.settle(facts.probes, facts.quantisation)
        self._vector_space = facts.vector_space
