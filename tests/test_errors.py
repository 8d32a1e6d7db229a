"""The error hierarchy: codes, statuses, and the table that the README promises."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamafile_mgr import errors
from llamafile_mgr.errors import Error

README = Path(__file__).parent.parent / "README.md"
#: Codes that no class of ours owns: success, and a run that Ctrl-C or SIGTERM ended early.
SHELL_CODES: dict[int, str] = {
    0: "success",
    130: "interrupted (Ctrl-C)",
    141: "whoever read the output went away, as `head` does",
    143: "terminated (SIGTERM)",
}


def all_errors(cls: type[Error] = Error) -> Iterator[type[Error]]:
    yield cls
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from all_errors(child)


def test_every_public_error_is_exported() -> None:
    assert {cls.__name__ for cls in all_errors()} <= set(errors.__all__)


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn = re.findall(r"(?:├──|└──) (\w+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted(cls.__name__ for cls in all_errors() if cls is not Error)


@pytest.mark.parametrize("cls", list(all_errors()))
def test_an_error_survives_pickling(cls: type[Error]) -> None:
    error = cls("what", cause="why", hint="fix")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.cause, copy.hint) == (cls, "what", "why", "fix")


def test_describe_leaves_out_what_is_unknown() -> None:
    assert Error("what").describe() == "what"
    assert Error("what", hint="fix").describe() == "what; fix"


def test_the_readme_has_every_exit_code() -> None:
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", README.read_text(encoding="utf-8"), re.M))
    wanted = {str(code): meaning for code, meaning in SHELL_CODES.items()}
    for cls in all_errors():
        if cls is Error:
            continue
        # Of classes with one code the first tells it, which is the most general one.
        wanted.setdefault(str(cls.exit_code), (cls.__doc__ or "").split("\n", 1)[0].rstrip("."))
    assert table == wanted


def test_request_errors_are_the_callers_fault() -> None:
    for cls in all_errors(errors.RequestError):
        assert 400 <= cls.http_status < 500
