"""A source of vectors that takes the same time for every text, for measuring what lies around engines."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from llamafile_mgr.bulk.text_records import TextResult

__all__ = ["BROKEN", "FixedSource", "fixed_source", "noting_source"]

WIDTH = 384
#: Name of a variable.
BROKEN = "TESTS_BROKEN_ENGINE"


class FixedSource:
    """One text after the other, ``seconds`` each; vectors depend on the text alone."""

    model = "fixed"
    vector_space = "f" * 16
    dimensions = WIDTH
    exact = True
    quantisation = None

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._gate = asyncio.Lock()
        self._free_at = 0.0

    async def embed(self, texts: Sequence[str]) -> list[TextResult]:
        """Return a vector per text when their time has passed."""
        async with self._gate:
            # Late wake-ups are not added up, as an engine that has the next request at hand would not.
            self._free_at = max(self._free_at, time.monotonic() - 0.05) + self._seconds * len(texts)
            await asyncio.sleep(max(0.0, self._free_at - time.monotonic()))
        return [TextResult(_vector(text)) for text in texts]

    async def probe(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors at once; others where the environment says that this machine is broken."""
        vectors = np.stack([_vector(text) for text in texts])
        return vectors[::-1].copy() if BROKEN in os.environ else vectors


def _vector(text: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    vector = np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)
    return vector / np.linalg.norm(vector)


@asynccontextmanager
async def fixed_source(seconds: float) -> AsyncIterator[FixedSource]:
    """Give such a source; a function of a module, so that it can be called on other machines."""
    yield FixedSource(seconds)


@asynccontextmanager
async def noting_source(seconds: float, folder: Path) -> AsyncIterator[FixedSource]:
    """Give such a source, and leave a file of this process that names the Ray node."""
    import ray

    (folder / str(os.getpid())).write_text(ray.get_runtime_context().get_node_id())
    yield FixedSource(seconds)
