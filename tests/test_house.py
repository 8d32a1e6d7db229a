"""What the house promises, counted in its sources: who names what, and how many files a new one touches."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from llamafile_mgr.cli import COMMANDS
from llamafile_mgr.engines import families
from llamafile_mgr.engines.families import Family, family_rules

ROOT = Path(__file__).parent.parent / "llamafile_mgr"


@cache
def sources() -> dict[str, ast.Module]:
    """Return the product's modules, by their paths below the package."""
    paths = sorted(ROOT.rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def own_files(kind: type) -> set[str]:
    """Return the files of a class and of its bases in this package."""
    modules = [each.__module__ for each in kind.__mro__ if each.__module__.startswith("llamafile_mgr.")]
    return {Path(str(sys.modules[name].__file__)).relative_to(ROOT).as_posix() for name in modules}


# --- engine families -----------------------------------------------------------------------------

TABLE = {Path(families.__file__).relative_to(ROOT).as_posix()}
#: What every family is made of, and names none.
COMMON = {"engines/family.py"}


def family_files(family: Family) -> set[str]:
    """Return the files in which the object of a family is written."""
    return own_files(type(family_rules(family))) - COMMON


def family_names(tree: ast.AST, members: Iterable[Family] = Family) -> Iterator[str]:
    """Yield where one of these families is named: by its member, its value, or a module of its own."""
    members = tuple(members)
    values, names = {each.value for each in members}, {each.name for each in members}
    modules = {type(family_rules(each)).__module__ for each in members}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Family":
            yield from ({f"{node.lineno}: Family.{node.attr}"} if node.attr in names else ())
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in values:
            yield f"{node.lineno}: {node.value!r}"
        elif isinstance(node, ast.ImportFrom):
            found = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            yield from (f"{node.lineno}: {module}" for module in modules & found)
        elif isinstance(node, ast.Import):
            yield from (f"{node.lineno}: {alias.name}" for alias in node.names if alias.name in modules)


def test_a_family_is_named_in_its_own_file_and_in_the_table_alone() -> None:
    own = TABLE.union(*map(family_files, Family))
    found = {path: list(family_names(tree)) for path, tree in sources().items() if path not in own}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("family", Family, ids=lambda family: family.value)
def test_a_family_is_one_file_and_its_rows_in_the_table(family: Family) -> None:
    others = TABLE | family_files(family)
    named = {path for path, tree in sources().items() if list(family_names(tree, [family]))}
    assert named <= others
    assert len(named) <= 3
    module = type(family_rules(family)).__module__
    assert not [
        each for each in Family if each is not family and type(family_rules(each)).__module__ == module
    ]


def test_no_two_families_share_a_file() -> None:
    modules = [type(family_rules(family)).__module__ for family in Family]
    assert len(set(modules)) == len(modules)


@pytest.mark.parametrize(
    "line",
    [
        "chosen = plan.family is Family.V2",
        "old = family.value == 'v1'",
        "from llamafile_mgr.engines.v10 import V10",
        "from llamafile_mgr.engines import wheel",
        "import llamafile_mgr.engines.v2",
    ],
)
def test_a_name_of_a_family_is_found(line: str) -> None:
    assert list(family_names(ast.parse(line)))


# --- words ---------------------------------------------------------------------------------------


def test_no_class_has_the_name_of_another() -> None:
    names = Counter(
        node.name for tree in sources().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_module_has_the_name_of_another() -> None:
    names = Counter(Path(path).stem for path in sources())
    assert [name for name, count in names.items() if count > 1 and name != "__init__"] == []


def test_a_module_of_a_command_is_named_as_the_command() -> None:
    assert {name: module for name, (module, _) in COMMANDS.items() if module.rstrip("_") != name} == {}


# --- one of each ---------------------------------------------------------------------------------


def callers(method: str) -> set[str]:
    """Return the files in which something is called by this name."""
    return {
        path
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (getattr(node.func, "attr", None) or getattr(node.func, "id", None)) == method
    }


def test_a_call_has_one_place_to_wait_one_rule_one_meter_and_one_deadline() -> None:
    """Counted by who makes the only queue, judges losses, makes meters, and ends calls that take too long."""
    assert callers("CallQueue") == {"supervisor/dispatch.py"}
    assert callers("Dispatcher") == {"supervisor/pool.py"}
    assert callers("judge_loss") == {"supervisor/dispatch.py"}
    assert callers("EngineMeter") == {"supervisor/backend.py"}
    assert callers("DeadlineError") == {"supervisor/dispatch.py"}
    semaphores = callers("Semaphore") | callers("BoundedSemaphore")
    assert not {path for path in semaphores if path.startswith(("proxy/", "embedding/", "supervisor/"))}
