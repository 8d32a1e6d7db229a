"""Tables on terminals of any width, and colours where they are wanted."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.cli.output import count_columns, format_table, print_rows, styled
from tests.support.service import environment, program

HEADERS = ("NAME", "VALUE", "WHY")
ROWS = [("threads", "4", "of 8 usable cores; 2 engines share them"), ("gpu", "none", "there is none")]


def test_without_a_width_nothing_is_cut_or_wrapped() -> None:
    lines = format_table(HEADERS, ROWS).splitlines()
    assert lines[0] == "NAME     VALUE  WHY"
    assert lines[1].endswith("of 8 usable cores; 2 engines share them")


def test_the_last_column_wraps_under_its_head() -> None:
    lines = format_table(HEADERS, ROWS, columns=40).splitlines()
    assert lines[1:4] == [
        "threads  4      of 8 usable cores; 2",
        "                engines share them",
        "gpu      none   there is none",
    ]


def test_the_last_column_stands_below_where_there_is_no_room_beside() -> None:
    assert format_table(HEADERS, ROWS, columns=20).splitlines() == [
        "NAME     VALUE",
        "    WHY",
        "threads  4",
        "    of 8 usable",
        "    cores; 2 engines",
        "    share them",
        "gpu      none",
        "    there is none",
    ]
    assert format_table(("A", "B", "C", "D"), [("a" * 8, "bb", "c" * 5, "d")], columns=14).splitlines() == [
        "A         B",
        "    C      D",
        "aaaaaaaa  bb",
        "    ccccc  d",
    ]
    assert format_table(("A", "B"), [("a" * 20, "b")], columns=10).splitlines()[2:] == ["aaaaaaaaa…", "    b"]


def test_wide_and_combining_characters_keep_their_columns() -> None:
    rows = [("質問", "4", "東京の博物館"), ("café", "🚀", "x"), ("cafe\u0301", "no", "y")]
    assert format_table(HEADERS, rows).splitlines() == [
        "NAME  VALUE  WHY",
        "質問  4      東京の博物館",
        "café  🚀     x",
        "cafe\u0301  no     y",
    ]


def test_text_without_spaces_is_broken_where_it_must_be() -> None:
    lines = format_table(HEADERS, [("名", "4", "博" * 15)], columns=34).splitlines()
    assert lines == ["NAME  VALUE  WHY", "名    4      " + "博" * 10, " " * 13 + "博" * 5]


def test_labels_of_wide_characters_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([("質問", "1"), ("name", "2"), ("é", "3")])
    assert capsys.readouterr().out == "質問  1\nname  2\né     3\n"


def test_a_cell_cannot_drive_the_terminal() -> None:
    table = format_table(HEADERS, [("a\x1b[2J", "b\n", "\u202ec")])
    assert table.splitlines()[1] == r"a\x1b[2J  b\n    \u202ec"


@given(
    st.lists(st.tuples(*[st.text("ab c東é\u0301🚀", max_size=30)] * 3), min_size=1, max_size=5),
    st.integers(min_value=8, max_value=120),
)
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, str, str]], columns: int) -> None:
    lines = format_table(HEADERS, rows, columns=columns).splitlines()
    assert all(count_columns(line) <= columns for line in lines)


@given(st.text("ab c東é🚀", min_size=1, max_size=200), st.integers(min_value=35, max_value=120))
def test_wrapping_loses_nothing(text: str, columns: int) -> None:
    lines = format_table(HEADERS, [("a", "b", text)], columns=columns).splitlines()[1:]
    assert "".join("".join(line[13:] for line in lines).split()) == "".join(text.split())


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert styled("x", colour="red") != "x"
    monkeypatch.setenv(name, value)
    assert styled("x", colour="red", bold=True) == "x"


def on_terminal(tmp_path: Path, columns: int, extra: dict[str, str], *arguments: str) -> str:
    """Run a command whose output is a terminal and return what it wrote."""
    ours, theirs = pty.openpty()
    env = environment(tmp_path, {"TERM": "xterm", "COLUMNS": str(columns), **extra})
    env = {name: value for name, value in env.items() if name != "NO_COLOR" or name in extra}
    process = subprocess.Popen(program(*arguments), env=env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux ends a terminal without a writer with an error
            break
        if not part:
            break
        parts.append(part)
    process.wait(20)
    os.close(ours)
    return b"".join(parts).decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "arguments", [("doctor", "--port", "0"), ("recommend",), ("show", "nothing-of-this")]
)
def test_colours_on_a_terminal_and_none_with_no_color(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert "\x1b[" in on_terminal(tmp_path, 100, {}, *arguments)
    assert "\x1b[" not in on_terminal(tmp_path, 100, {"NO_COLOR": "1"}, *arguments)


@pytest.mark.parametrize("arguments", [("recommend",), ("show", "mxbai-embed-large-v1")])
def test_a_table_keeps_to_a_narrow_terminal(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    shown = on_terminal(tmp_path, 90, {"NO_COLOR": "1"}, *arguments)
    _, _, table = shown.partition(re.search(r"^(MODEL  |NAME  ).*$", shown, re.M).group())  # type: ignore[union-attr]
    rows = table.split("\n\n")[0].strip("\n").splitlines()
    assert rows
    assert max(map(len, rows)) <= 90
