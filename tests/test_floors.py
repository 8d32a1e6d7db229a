"""A room imports only from floors below it; the floors are those of the design."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "llamafile_mgr"
ROOT = Path(__file__).parent.parent / PACKAGE

#: Room -> floor. Rooms of one floor do not import each other.
FLOORS = {
    "errors": 0,
    "addresses": 0,
    "changes": 0,
    "config": 0,
    "config_reading": 0,
    "engine_settings": 0,
    "files": 0,
    "histograms": 0,
    "locks": 0,
    "processes": 0,
    "paths": 0,
    "tasks": 0,
    "typed_values": 0,
    "web_access": 0,
    "catalog": 1,
    "machine": 1,
    "engines": 2,
    "llamafile": 3,
    "store": 4,
    "planner": 4,
    "launching": 5,
    "downloader": 5,
    "supervisor": 5,
    "embedding": 6,
    "client": 6,
    "proxy": 7,
    "bulk": 7,
    "benchmarking": 7,
    "service": 7,
    "endpoints": 7,
    "cli": 8,
    "pytest_plugin": 8,
    "__main__": 9,
}


def room_of(module: str) -> str | None:
    """Return the room of a dotted module of ours, None for the package itself and for others."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def imports_of(path: Path, tree: ast.AST) -> Iterator[str]:
    """Yield every module that this file imports, lazily or not, relative names made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path: Path, room: str, source: str) -> list[str]:
    """Return what this file imports from its own floor's other rooms or from above."""
    found = []
    for module in imports_of(path, ast.parse(source)):
        other = room_of(module)
        if other is None or other == room or other.startswith("__version"):
            continue
        assert other in FLOORS, f"{path} imports {module}: give the room {other} a floor"
        if other != room and FLOORS[other] >= FLOORS[room] and not (FLOORS[other] == FLOORS[room] == 0):
            found.append(f"{path.relative_to(ROOT.parent)}: {room} imports {other}")
    return found


def test_no_room_imports_upwards() -> None:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        if relative.name == "__init__.py" and len(relative.parts) == 1:
            continue
        room = relative.parts[0].removesuffix(".py")
        assert room in FLOORS, f"{relative}: give the room {room} a floor"
        found += violations(path, room, path.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("store", "from llamafile_mgr.cli import run"),
        ("store", "import llamafile_mgr.planner.plans"),
        ("planner", "def f():\n    from llamafile_mgr import proxy"),
    ],
)
def test_an_upward_import_is_found(room: str, line: str) -> None:
    assert violations(ROOT / room / "x.py", room, line)


def test_importing_the_package_loads_no_third_party_package() -> None:
    code = (
        "import sys; before = set(sys.modules); import llamafile_mgr; "
        "print(*{m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["llamafile_mgr"]
