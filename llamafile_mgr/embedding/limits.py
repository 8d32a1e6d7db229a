"""How near vectors must be to what they should be, by the quantisation of the weights.

Measured on all-MiniLM-L6-v2, whose 22 million parameters suffer more than those of larger models, on two AVX2
cores with llama.cpp of October 2026: the least cosine of ten texts with the vectors of sentence-transformers
(F32), and of twenty docstrings alone and among the others.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CosineLimits:
    """The least cosines. ``golden``: with vectors of the unquantised model. ``repeat``: of a text with itself
    on one engine, alone, among others and in another order."""

    golden: float
    repeat: float

    @property
    def elsewhere(self) -> float:
        """Return that of a text with itself on another day, engine or machine."""
        return min(self.repeat, _ELSEWHERE)


#: Engines quantise what they compute with too, so a text alone and among others differs by its rounding.
_EXACT, _ROUNDED = 0.9999, 0.998
_ELSEWHERE = 0.999
#: How the name of a quantisation begins -> its limits; the first that fits counts.
_LIMITS = (
    ("F", CosineLimits(0.999, _EXACT)),  # measured: 0.999999 and 0.9999997
    ("BF16", CosineLimits(0.999, _EXACT)),  # 0.99996 and 0.99999
    ("Q8", CosineLimits(0.996, _ROUNDED)),  # Q8_0: 0.9983 and 0.99982
    ("Q6", CosineLimits(0.994, _ROUNDED)),  # Q6_K: 0.9971 and 0.99962
    ("Q5_K", CosineLimits(0.97, _ROUNDED)),  # Q5_K_M: 0.9886 and 0.99967
    ("Q5", CosineLimits(0.95, _ROUNDED)),  # Q5_0, Q5_1: 0.977 and 0.99977
    ("Q4_K", CosineLimits(0.94, _ROUNDED)),  # Q4_K_S, Q4_K_M: 0.967 and 0.99954
    ("IQ4", CosineLimits(0.91, _ROUNDED)),  # IQ4_NL: 0.946 and 0.99976
    ("Q4", CosineLimits(0.86, _ROUNDED)),  # Q4_0, Q4_1: 0.906 and 0.99977
    ("Q3", CosineLimits(0.84, _ROUNDED)),  # Q3_K_M: 0.900 and 0.99968
    ("IQ3", CosineLimits(0.84, _ROUNDED)),
)
#: Two bits and less, and what is newer than this table. Q2_K: 0.689 and 0.99962.
_COARSE = CosineLimits(0.6, _ROUNDED)


def cosine_limits(quantisation: str | None) -> CosineLimits:
    """Return the limits for weights of this type, None where nothing tells it."""
    name = quantisation or "F32"
    return next((limits for start, limits in _LIMITS if name.startswith(start)), _COARSE)
