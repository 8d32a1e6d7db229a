"""Baselines: what an engine answered when a model was first started here, for models without golden vectors.

A later start whose vectors differ, because the engine, a driver or the file changed, does not become ready
unnoticed. One small JSON file per vector space; blocks on the disk.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.files import store_errors, write_atomically
from llamafile_mgr.paths import ensure_private_dir

__all__ = ["Baselines"]


class Baselines:
    """The directory of baselines."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, space: str) -> NDArray[np.float32] | None:
        """Return the vectors recorded for a vector space, None when there are none that can be read."""
        try:
            rows = json.loads(self._path(space).read_text(encoding="ascii"))
            vectors = np.array(rows, dtype=np.float32)
        except (OSError, ValueError):
            return None
        return vectors if vectors.ndim == 2 and vectors.size else None

    def record(self, space: str, vectors: NDArray[np.float32]) -> None:
        """Write the vectors of a vector space.

        Raises:
            StoreError: they cannot be written.
        """
        ensure_private_dir(self._directory)
        path = self._path(space)
        with store_errors(path):
            write_atomically(path, json.dumps(vectors.astype(float).tolist()).encode("ascii"))

    def _path(self, space: str) -> Path:
        return self._directory / f"{space}.json"
