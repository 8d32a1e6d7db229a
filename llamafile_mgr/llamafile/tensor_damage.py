"""Damage in weights that engines load without a word: garbage and holes, told from samples of each tensor.

What is looked at are the numbers themselves or, of quantised tensors, the scales of their blocks (ggml's
``ggml-common.h``): each must be finite, and a matrix of one layer must be about as large as those of the
others. A tensor of another model, or one whose numbers or rows changed places, is not told this way.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.llamafile.byte_source import ByteSource, WorkBudget, open_source
from llamafile_mgr.llamafile.ggml_types import TENSOR_TYPES
from llamafile_mgr.llamafile.gguf_header import TensorEntry, read_header
from llamafile_mgr.llamafile.inspection import Weights

#: How much of a file is looked at; every tensor of a larger one in parts spread evenly.
_SAMPLED_BYTES = 64 << 20
_PART_BYTES = 64 << 10
#: A hole is at least as large as what file systems and downloads leave out.
_PAGE_BYTES = 4096
#: Layers of trained models differ by less than a tenth of this.
_LARGEST_RATIO = 100.0
_FEWEST_LAYERS = 3
#: Tables of embeddings are padded with zeros, but not for so large a part.
_TABLES = ("token_embd.weight", "position_embd.weight")
_LARGEST_HOLE = 0.25
_LAYER = re.compile(r"^blk\.\d+\.")
#: Tensor type -> where the half-precision scales of a block lie in it.
_SCALES_AT = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}
_MAX_ELEMENTS = 2_500_000


@dataclass(frozen=True, slots=True)
class _Sample:
    """What parts of one tensor show. ``size``: the root mean square of its numbers or scales; ``hole``: the
    share of its pages that are zero bytes alone."""

    name: str
    finite: bool
    size: float
    hole: float


def find_damage(path: Path, weights: Weights) -> str | None:
    """Return what is wrong with a tensor of these weights in the file ``path``, None when nothing is found.

    Reads about 64 MiB, blocks.

    Raises:
        NotFoundError: the file is gone.
        InvalidFileError: it is another than when it was inspected.
    """
    with open_source(path) as source:
        header = read_header(
            source, weights.offset, weights.size, WorkBudget(_MAX_ELEMENTS), keep_tensors=True
        )
        step = max(1, -(-header.tensors.total_bytes // _SAMPLED_BYTES))
        samples = [
            sample
            for entry in header.tensors.entries
            if (sample := _sample(source, header.tensors.data_at, entry, step)) is not None
        ]
    for sample in samples:
        if not sample.finite:
            return f"{sample.name} holds numbers that are not finite"
    return _find_outlier(samples)


def _sample(source: ByteSource, data_at: int, entry: TensorEntry, step: int) -> _Sample | None:
    """Look at every ``step``-th part of a tensor; None for a type of which too little is known."""
    kind = TENSOR_TYPES.get(entry.kind)
    if kind is None or not entry.size:
        return None
    whole = max(1, _PART_BYTES // kind.block_bytes) * kind.block_bytes
    finite, total, count, pages, empty = True, 0.0, 0, 0, 0
    for at in range(0, entry.size, whole * step):
        part = np.frombuffer(
            source.read_at(data_at + entry.offset + at, min(whole, entry.size - at)), np.uint8
        )
        numbers = _numbers(kind.name, part.reshape(-1, kind.block_bytes))
        if numbers is None:
            return None
        finite = finite and bool(np.isfinite(numbers).all())
        with np.errstate(over="ignore", invalid="ignore"):
            total += float(np.square(numbers, dtype=np.float64).sum())
        count += numbers.size
        page = min(_PAGE_BYTES, part.size)
        used = part[: part.size // page * page].reshape(-1, page).any(axis=1)
        pages, empty = pages + used.size, empty + int(used.size - used.sum())
    return _Sample(entry.name, finite, (total / count) ** 0.5, empty / pages)


def _numbers(kind: str, blocks: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """Return the numbers of a part, or the scales of its blocks; None for a type that is none of these."""
    flat = blocks.reshape(-1)
    if kind == "F32":
        return flat.view("<f4").astype(np.float32)
    if kind == "F16":
        return flat.view("<f2").astype(np.float32)
    if kind == "BF16":
        return (flat.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if kind not in _SCALES_AT:
        return None
    scales = [np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2") for at in _SCALES_AT[kind]]
    return np.concatenate(scales).astype(np.float32)


def _find_outlier(samples: list[_Sample]) -> str | None:
    """Hold each layer's weights against those of the same name in the others; look for holes in tables."""
    groups: defaultdict[str, list[_Sample]] = defaultdict(list)
    for sample in samples:
        if _LAYER.match(sample.name) and sample.name.endswith(".weight"):
            groups[_LAYER.sub("", sample.name)].append(sample)
        elif sample.name in _TABLES and sample.hole > _LARGEST_HOLE:
            return f"{sample.name} has no numbers in {100 * sample.hole:.0f} % of it"
    for group in groups.values():
        if len(group) < _FEWEST_LAYERS:
            continue
        usual = float(np.median([sample.size for sample in group]))
        often = float(np.median([sample.hole for sample in group])) > 0
        for sample in group:
            if sample.hole and not often:
                return f"{sample.name} has a part without any numbers, where other layers have none"
            if usual > 0 and not usual / _LARGEST_RATIO <= sample.size <= usual * _LARGEST_RATIO:
                return f"{sample.name} is {sample.size / usual:.2g} times as large as in other layers"
    return None
