"""Embedded arguments: both historic syntaxes, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.engines.arguments import ArgumentSyntax, format_arguments, parse_arguments
from llamafile_mgr.errors import UsageError
from llamafile_mgr.llamafile import Family
from llamafile_mgr.llamafile.inspection import syntax_of_engine

LINES, SHELL = ArgumentSyntax.LINES, ArgumentSyntax.SHELL


@pytest.mark.parametrize(
    ("version", "family", "expected"),
    [
        ("0.8.4", None, LINES),
        ("0.8.16", Family.V1, LINES),
        ("0.8.17", Family.V1, SHELL),
        ("0.9.3", Family.V1, SHELL),
        ("0.10.5", Family.V10, SHELL),
        (None, Family.V10, SHELL),
        (None, Family.EMBEDDED, SHELL),
        (None, Family.V1, None),
        (None, None, None),
    ],
)
def test_the_syntax_follows_the_engine(
    version: str | None, family: Family | None, expected: ArgumentSyntax | None
) -> None:
    assert syntax_of_engine(version, family) is expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", ()),
        ("\n\n", ()),
        ("-m\nx.gguf\n...\n", ("-m", "x.gguf")),
        ("-m\r\nx.gguf\r\n", ("-m", "x.gguf")),
        ("-p\nhello  world \n", ("-p", "hello  world ")),
        ("-p\nfirst\\nsecond\n", ("-p", "first\nsecond")),
        ("-p\n'quoted' # $HOME\n", ("-p", "'quoted' # $HOME")),
        ("...\n-m\nx.gguf\n", ("...", "-m", "x.gguf")),  # counts as the last line only
        ("-m\n\nx.gguf\n...", ("-m", "x.gguf")),
    ],
)
def test_one_argument_per_line(raw: str, expected: tuple[str, ...]) -> None:
    parsed = parse_arguments(raw, LINES)
    assert (parsed.arguments, parsed.after, parsed.variables) == (expected, (), ())
    assert (parsed.raw, parsed.syntax) == (raw, LINES)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", ()),
        ("-m x.gguf\n-c 512\n...\n", ("-m", "x.gguf", "-c", "512")),
        ("# a comment\n-c 512 # another\n", ("-c", "512")),
        (
            "this\\ is' a single arg'\"ok\"# # comment",
            ("this is a single argok#",),
        ),  # cosmo_args' own example
        ("-p 'two words' \"three more words\"", ("-p", "two words", "three more words")),
        ("'it'\\''s'", ("it's",)),
        ('"\\x41\\101\\n\\q"', ("AA\nq",)),
        ('"\\xzz"', ("xzz",)),
        ("a'' '' b", ("a", "", "b")),
        ("a ''", ("a",)),  # dropped at the very end
        ("one\\\ntwo", ("onetwo",)),
        ("'open quote", ("open quote",)),
        ('"open quote', ("open quote",)),
        ("..", ("..",)),
        ("....", ("....",)),
        ("./x", ("./x",)),
        ("a...", ("a...",)),
        ("\\t", ("\t",)),
        ("\\", ()),
    ],
)
def test_shell_like(raw: str, expected: tuple[str, ...]) -> None:
    parsed = parse_arguments(raw, SHELL)
    assert (parsed.arguments, parsed.after, parsed.variables) == (expected, (), ())


def test_the_callers_arguments_may_stand_in_the_middle() -> None:
    parsed = parse_arguments("-m x.gguf ... --port 9", SHELL)
    assert (parsed.arguments, parsed.after) == (("-m", "x.gguf"), ("--port", "9"))


@pytest.mark.parametrize(
    ("raw", "expected", "variables"),
    [
        ("-m $MODEL/x.gguf", ("-m", "$MODEL/x.gguf"), ("MODEL",)),
        ('"${HOME}/a b"', ("${HOME}/a b",), ("HOME",)),
        ("'$HOME'", ("$HOME",), ()),
        ("\\$HOME", ("$HOME",), ()),
        ("$", ("$",), ()),
        ("$-x", ("$-x",), ()),
        ("${OPEN", ("${OPEN",), ()),
        ("$A $B $A", ("$A", "$B", "$A"), ("A", "B")),
    ],
)
def test_variables_stay_visible(raw: str, expected: tuple[str, ...], variables: tuple[str, ...]) -> None:
    parsed = parse_arguments(raw, SHELL)
    assert (parsed.arguments, parsed.variables) == (expected, variables)


@pytest.mark.parametrize(
    ("raw", "syntax", "expected"),
    [
        ("-m\nx.gguf\n-ngl\n9999\n...\n", None, ("-m", "x.gguf", "-ngl", "9999")),
        ("-m x.gguf\n-ngl 9999\n", SHELL, ("-m", "x.gguf", "-ngl", "9999")),
        ("# comment\n-c\n512\n", SHELL, ("-c", "512")),
        ("-p\ntwo words\n", LINES, ("-p", "two words")),
    ],
)
def test_an_unknown_engine(raw: str, syntax: ArgumentSyntax | None, expected: tuple[str, ...]) -> None:
    parsed = parse_arguments(raw, None)
    assert (parsed.syntax, parsed.arguments) == (syntax, expected)


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@given(st.lists(words, max_size=8))
def test_shell_text_reads_back(arguments: list[str]) -> None:
    parsed = parse_arguments(format_arguments(arguments, SHELL), SHELL)
    assert (parsed.arguments, parsed.after, parsed.variables) == (tuple(arguments), (), ())


@given(st.lists(words, max_size=8))
def test_lines_read_back_or_are_refused(arguments: list[str]) -> None:
    try:
        raw = format_arguments(arguments, LINES)
    except UsageError:
        assert any(not a or "\r" in a or "\\n" in a or a == "..." for a in arguments)
        return
    assert parse_arguments(raw, LINES).arguments == tuple(arguments)


@given(st.lists(words, max_size=5))
def test_text_for_an_unknown_engine_means_the_same_in_both(arguments: list[str]) -> None:
    try:
        raw = format_arguments(arguments, None)
    except UsageError:
        return
    for syntax in (LINES, SHELL, None):
        assert parse_arguments(raw, syntax).arguments == tuple(arguments)


@given(st.text(max_size=200))
def test_any_text_can_be_read(raw: str) -> None:
    for syntax in (LINES, SHELL, None):
        assert parse_arguments(raw, syntax).raw == raw


@pytest.mark.parametrize("argument", ["nul\0", "\ud800"])
@pytest.mark.parametrize("syntax", [LINES, SHELL, None])
def test_what_is_no_text_is_refused(argument: str, syntax: ArgumentSyntax | None) -> None:
    with pytest.raises(UsageError):
        format_arguments([argument], syntax)
