"""Real texts that every machine has: the docstrings of Python's standard library."""

from __future__ import annotations

import ast
import contextlib
import random
import sysconfig
from pathlib import Path

__all__ = ["read_docstrings"]

SHORTEST, LONGEST = 40, 1200  # characters; about 10 to 350 tokens


def read_docstrings(count: int) -> list[str]:
    """Return up to ``count`` docstrings, each once, in an order that depends on the release alone."""
    found: dict[str, None] = {}
    folder = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        with contextlib.suppress(SyntaxError, ValueError):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    text = ast.get_docstring(node) or ""
                    if SHORTEST <= len(text) <= LONGEST:
                        found[text] = None
    texts = list(found)
    random.Random(7).shuffle(texts)  # noqa: S311  # an order, no secret
    return texts[:count]
