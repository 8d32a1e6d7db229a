"""The README as data: its fences, its tables, and the commands in its sentences.

An HTML comment ``<!-- dry: REASON -->`` above a fence says that its commands are parsed instead of run. A
fence whose first line is a comment with a file's name (``# index.py``) is that file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["README", "Fence", "fences", "inline_commands", "json_keys", "json_rows", "table_after"]

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")

_FENCE = re.compile(
    r"(?:^<!-- dry: (?P<dry>[^\n]+) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.M | re.S
)
_FILE = re.compile(r"# ([\w.-]+\.\w+)\n")


@dataclass(frozen=True, slots=True)
class Fence:
    """One fenced block; ``line`` is that of its opening. ``dry``: why it is not run. ``file``: its name."""

    kind: str
    body: str
    line: int
    dry: str | None
    file: str | None

    @property
    def commands(self) -> list[str]:
        """Return its lines without their comments, those that end in a backslash joined."""
        joined = self.body.replace("\\\n", " ")
        return [text for line in joined.splitlines() if (text := re.sub(r"(^|\s+)# .*$", "", line).strip())]

    def __str__(self) -> str:
        return f"{self.kind}-{self.line}"


def fences(kind: str | None = None) -> list[Fence]:
    """Return every fence of a kind, in order."""
    found = []
    for match in _FENCE.finditer(README):
        line = README[: match.start("kind")].count("\n") + 1
        file = _FILE.match(match["body"])
        found.append(Fence(match["kind"], match["body"], line, match["dry"], file[1] if file else None))
    return [fence for fence in found if kind in (None, fence.kind)]


def inline_commands() -> list[str]:
    """Return the calls of our program that stand between backticks, outside fences."""
    return re.findall(r"`((?:sudo )?llamafile-mgr [^`]+)`", _FENCE.sub("", README))


def table_after(head: str) -> list[list[str]]:
    """Return the rows of the table whose first column is headed so, as their cells."""
    _, found, rest = README.partition(f"| {head} |")
    assert found, head
    lines = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def json_rows() -> dict[str, str]:
    """Return the cells of the table of JSON: each command's name, and what it prints."""
    cells = {}
    for names, told in table_after("command"):
        for name in re.findall(r"`([^`]+)`", names):
            cells[name] = told
    return cells


def json_keys(name: str) -> list[str]:
    """Return the keys that the table of JSON names for a command."""
    return re.findall(r"`(\w+)`", json_rows()[name].partition(";")[0])
