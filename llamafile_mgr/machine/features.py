"""Names of instruction sets: those that decide which engine runs and how fast, under one name each."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Another system's name -> ours (Linux' names, and the common ones for Arm).
_NAMES = {
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fp16",
    "avx1.0": "avx",
    "avx-vnni": "avx_vnni",
    "pni": "sse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}
_WANTED = re.compile(r"(sse|ssse|avx|amx|fma$|f16c$|bmi\d$|neon$|dotprod$|fp16$|bf16$|i8mm$|sve|sme(?!p))")


def select_features(words: Iterable[str]) -> tuple[str, ...]:
    """Return the names that matter to inference, in order; the dozens of others are dropped."""
    named = {_NAMES.get(word.lower(), word.lower()) for word in words}
    return tuple(sorted(name for name in named if _WANTED.match(name)))
