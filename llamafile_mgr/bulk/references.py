"""The golden vectors of a job on many machines: what every node must give before it takes part.

They are the catalog's where it has them. For another model the job's first node gives them; either way they
are kept with what is finished, so that a job that goes on asks for the same ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.catalog import Model, load_golden
from llamafile_mgr.embedding.limits import cosine_limits
from llamafile_mgr.embedding.probing import PROBE_TEXTS
from llamafile_mgr.embedding.vectors import cosines, normalise
from llamafile_mgr.errors import CheckpointError, VectorSpaceError
from llamafile_mgr.files import store_errors, write_atomically

_NAME = "golden.json"
_TEXTS = (
    *PROBE_TEXTS,
    "Überraschend: 漢字, emoji 🙂 and a somewhat longer sentence, with commas, that goes on for a while.",
)


@dataclass(frozen=True, slots=True)
class Reference:
    """``texts``: embedded by every node as they are, without a prompt. ``vectors``: float32 of unit length,
    a row per text; None until a node gave them. ``pinned``: they are the catalog's, of unquantised weights.
    """

    texts: tuple[str, ...] = _TEXTS
    vectors: NDArray[np.float32] | None = None
    pinned: bool = False

    def settle(self, given: NDArray[np.float32], quantisation: str | None) -> Reference:
        """Return the reference after a node gave these vectors: the first one's, if there were none.

        ``quantisation``: of the node's weights.

        Raises:
            VectorSpaceError: they are others.
        """
        if self.vectors is None:
            return replace(self, vectors=given)
        whose = "the model's known vectors" if self.pinned else "those of the job's first node"
        if given.shape != self.vectors.shape:
            raise VectorSpaceError(
                "its vectors have another shape than those of the job",
                cause=f"{_shape(given)}, where {whose} are {_shape(self.vectors)}",
            )
        limits = cosine_limits(quantisation)
        limit = limits.golden if self.pinned else limits.elsewhere
        worst = float(np.min(cosines(given, self.vectors)))
        if not worst >= limit:
            raise VectorSpaceError(
                "its vectors are not those of the job",
                cause=f"cosine {worst:.4f} with {whose}, where {limit} is the least",
            )
        return self


def make_reference(model: Model | None) -> Reference:
    """Return the catalog's golden vectors of a model; texts alone where it has none."""
    golden = load_golden(model) if model is not None else ()
    if not golden:
        return Reference()
    vectors = normalise(np.array([entry.vector for entry in golden], np.float32))
    return Reference(tuple(entry.text for entry in golden), vectors, pinned=True)


def load_reference(folder: Path) -> Reference | None:
    """Return what a job in ``folder`` was begun with, None when no node was asked yet.

    Raises:
        CheckpointError: it cannot be read any more.
    """
    path = folder / _NAME
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        vectors = np.array(said["vectors"], np.float32)
        if vectors.ndim != 2 or len(vectors) != len(said["texts"]):
            raise ValueError("its rows are not those of its texts")
        return Reference(tuple(said["texts"]), vectors, bool(said["pinned"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the golden vectors of the job in {folder} cannot be read",
            cause=str(error),
            hint="begin it anew with --restart",
        ) from error


def keep_reference(folder: Path, reference: Reference) -> None:
    """Keep it for a job that goes on. Raises StoreError."""
    vectors = reference.vectors.astype(float).tolist() if reference.vectors is not None else []
    said = {"texts": reference.texts, "vectors": vectors, "pinned": reference.pinned}
    with store_errors(folder / _NAME):
        write_atomically(folder / _NAME, json.dumps(said).encode())


def _shape(vectors: NDArray[np.float32]) -> str:
    return " x ".join(str(size) for size in vectors.shape)
