"""Real texts that every machine has: the docstrings of Python's standard library."""

from __future__ import annotations

import ast
import contextlib
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SHORTEST, LONGEST = 40, 1200  # characters; about 10 to 350 tokens


def read_docstrings(count: int) -> list[str]:
    """Return up to ``count`` docstrings, each once, in an order that depends on the release alone."""
    choose = random.Random(7)  # noqa: S311  # an order, no secret
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py"))
    choose.shuffle(paths)
    found: dict[str, None] = {}
    for path in paths:
        if "site-packages" not in path.parts and "test" not in path.parts:
            found.update(dict.fromkeys(_docstrings(path)))
        if len(found) >= count:
            break
    texts = list(found)
    choose.shuffle(texts)
    return texts[:count]


def _docstrings(path: Path) -> Iterator[str]:
    with contextlib.suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node) or ""
                if SHORTEST <= len(text) <= LONGEST:
                    yield text
