"""The thin edges to the system: files that may not be there, tools that may hang.

Nothing here raises for what is missing: a machine without a file or tool is an ordinary machine, and
what they would have told is unknown.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

#: Longest text taken from a file or tool; the largest real one, /proc/cpuinfo of 1,000 CPUs, has 1.5 MB.
_LIMIT = 8 * 1024 * 1024


def read_text(path: str | os.PathLike[str]) -> str | None:
    """Return a file's text, ``None`` when it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            return stream.read(_LIMIT).decode("utf-8", errors="replace")
    except OSError:
        return None


def whole_number(text: str | None) -> int | None:
    """Return the number that a text of plain digits says, ``None`` for anything else or an absurd length."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def hex_number(text: str | None) -> int | None:
    """Return the number that a text of hexadecimal digits says, ``None`` for anything else."""
    try:
        return int(text or "", 16)
    except ValueError:
        return None


def read_pairs(text: str, separator: str) -> dict[str, str]:
    """Return the ``name: value`` or ``name=value`` lines of a text."""
    pairs = (line.partition(separator) for line in text.splitlines())
    return {name.strip(): value.strip() for name, found, value in pairs if found}


def run_tool(argv: Sequence[str], timeout_seconds: float = 3.0) -> str | None:
    """Return what a tool writes to standard output; ``None`` when it is missing, fails or is late.

    It runs with the C locale, so that numbers and words are those that the parsers know, and is killed
    at its deadline.
    """
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_seconds,
            env={**os.environ, "LC_ALL": "C", "LANG": "C"},
            check=False,
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout[:_LIMIT].decode("utf-8", errors="replace") if done.returncode == 0 else None
