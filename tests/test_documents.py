"""What the pages for contributors state holds in the tree: rooms, floors, words, files, commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamafile_mgr.cli import COMMANDS
from tests.support.speeds import LEFT_OUT
from tests.test_floors import FLOORS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "llamafile_mgr"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = {"docs/architecture.md": ARCHITECTURE, "CONTRIBUTING.md": CONTRIBUTING}


def section(heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", ARCHITECTURE, re.M | re.S)
    assert found is not None, heading
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(text: str) -> Iterator[str]:
    """Yield what stands between backticks, fences aside."""
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def defined_names() -> set[str]:
    """Return the classes and functions of the package."""
    return {
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    }


def test_the_table_of_rooms_is_that_of_the_floors() -> None:
    table = [(room.strip("`"), int(floor)) for floor, room, _ in rows(section("Rooms"))]
    assert dict(table) == FLOORS
    assert len(table) == len(FLOORS)
    assert [floor for _, floor in table] == sorted(FLOORS.values())


def test_every_word_of_the_glossary_has_a_meaning_and_is_in_the_code() -> None:
    words, names = rows(section("Words")), defined_names()
    assert [(word, code) for word, _, code in words if code.strip("`") not in names] == []
    assert all(meaning for _, meaning, _ in words)
    heads = [word for word, _, _ in words]
    assert len(set(heads)) == len(heads)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = [
        words[0].rstrip("/")
        for text in quoted(PAGES[page])
        if (words := text.split()) and re.fullmatch(r"[\w.*/-]*(/|/[\w.*-]+|\.(?:md|py|toml))", words[0])
    ]
    assert named
    missing = [path for path in named if not any([*ROOT.glob(path), *PACKAGE.glob(path)])]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_exists(page: str) -> None:
    scripts: dict[str, list[str]] = {}
    for text in quoted(PAGES[page]):
        script, *options = text.split()
        if script.startswith("scripts/"):
            scripts.setdefault(script, []).extend(each for each in options if each.startswith("--"))
    for script, options in scripts.items():
        for path in ROOT.glob(script):
            assert path.stat().st_mode & 0o100 or path.suffix == ".py", path
            assert [option for option in options if option not in path.read_text(encoding="utf-8")] == []
    ours = re.findall(r"llamafile-mgr ([a-z]+)", PAGES[page])
    assert [name for name in ours if name not in COMMANDS] == []


def test_every_link_inside_a_page_leads_somewhere() -> None:
    for text in PAGES.values():
        anchors = {
            re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
            for head in re.findall(r"^#+ (.*)$", text, re.M)
        }
        assert [link for link in re.findall(r"\]\(#([^)]*)\)", text) if link not in anchors] == []


def test_what_the_fast_tests_leave_out_exists() -> None:
    assert [name for name in LEFT_OUT if not (ROOT / "tests" / name).exists()] == []
    assert list(LEFT_OUT) == sorted(LEFT_OUT)
