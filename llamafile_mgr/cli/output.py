"""Printing: tables for people, JSON for programs, errors to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from llamafile_mgr.errors import Error

_GAP = "  "
#: The last column is wrapped into what is left of the line, unless that is narrower.
_LEAST_WRAP = 20
_BELOW = "    "


def print_line(text: str = "") -> None:
    """Write one line to standard output."""
    click.echo(text)


def print_json(value: object) -> None:
    """Write ``value`` as indented JSON to standard output; keys keep their order.

    Value classes are written as their fields, paths as text.
    """
    click.echo(_dump(value, indent=2))


def print_result(value: object, text: str, *, as_json: bool) -> None:
    """Write what was done, for programs or for people."""
    if as_json:
        print_json(value)
    else:
        print_line(text)


def print_json_line(value: object) -> None:
    """Write ``value`` as JSON on one line and flush, so that a reading program sees it at once."""
    click.echo(_dump(value))


def _dump(value: object, indent: int | None = None) -> str:
    """Return JSON text; escapes stand for what standard output cannot write."""
    import json

    text = json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, default=_plain)
    return text


def _plain(value: Any) -> object:
    """Return the fields of a value class, or the text of a path."""
    import dataclasses

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return os.fspath(value)


def drop_output() -> None:
    """Let standard output go nowhere from now on, with what is left in its buffer: nobody can get it."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # it is no file


def print_error(error: Error) -> None:
    """Write what happened, why and what to do to standard error."""
    click.echo(styled("error: ", colour="red", bold=True) + error.message, err=True)
    if error.cause:
        click.echo(f"  why: {error.cause}", err=True)
    if error.hint:
        click.echo(f"  fix: {error.hint}", err=True)


def styled(text: str, *, colour: str | None = None, bold: bool = False) -> str:
    """Return ``text`` in a colour; as it is where NO_COLOR is set or the terminal has none.

    Where output is no terminal, the colours are taken away when it is written.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return click.style(text, fg=colour, bold=bold or None)


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Write labels and values in two columns; what could drive a terminal is escaped."""
    rows = list(rows)
    width = max(count_columns(label) for label, _ in rows)
    for label, value in rows:
        print_line(f"{_pad(label, width)}{_GAP}{printable(value)}")


def printable(text: str) -> str:
    """Return ``text`` with escapes for what could drive a terminal: files are strangers' work."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def format_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, columns: int | None = None) -> str:
    """Return left-aligned columns that fit the terminal, when output goes to one.

    The last column is wrapped, so that no reason loses its end; where there is no room for it beside the
    others, columns stand below each other. ``columns``: the width to fit instead. What could drive a
    terminal is escaped.
    """
    lines = [tuple(headers), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(count_columns(line[i]) for line in lines) for i in range(len(headers))]
    if columns is None and sys.stdout.isatty():
        import shutil

        columns = shutil.get_terminal_size().columns
    return "\n".join(text for line in lines for text in _lay_out(line, widths, columns or sys.maxsize))


def _lay_out(line: Sequence[str], widths: Sequence[int], columns: int) -> Iterator[str]:
    """Yield one row as the lines that it takes."""
    head, last = _GAP.join([*map(_pad, line[:-1], widths), ""]), line[-1]
    indent = count_columns(head)
    if indent + widths[-1] <= columns:
        yield (head + last).rstrip()
    elif columns - indent >= _LEAST_WRAP:
        for number, piece in enumerate(_wrap(last, columns - indent)):
            yield ((head if number == 0 else " " * indent) + piece).rstrip()
    else:
        yield from _break(line, widths, columns)


def _break(line: Sequence[str], widths: Sequence[int], columns: int) -> Iterator[str]:
    """Yield one row with as many columns a line as fit, and the last one wrapped."""
    text = start = ""
    for cell, width in zip(line[:-1], widths, strict=False):
        if text != start and count_columns(text) + width > columns:
            yield text.rstrip()
            text = start = _BELOW
        room = columns - count_columns(text)
        fits = count_columns(cell) <= room
        text += _pad(cell if fits else _cut(cell, room - 1) + "…", width) + _GAP
    if count_columns(text) + widths[-1] <= columns:
        yield (text + line[-1]).rstrip()
        return
    if text.strip():
        yield text.rstrip()
    for piece in _wrap(line[-1], max(columns - len(_BELOW), 2)) if line[-1] else ():
        yield _BELOW + piece


def _wrap(text: str, room: int) -> Iterator[str]:
    """Yield lines of at most ``room`` columns, broken between words where that is possible."""
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if count_columns(joined) <= room:
            line = joined
            continue
        if line:
            yield line
        while count_columns(word) > room:
            piece = _cut(word, room)
            yield piece
            word = word[len(piece) :]
        line = word
    yield line


def _cut(text: str, room: int) -> str:
    """Return the start of ``text`` that fits into so many columns."""
    for end, character in enumerate(text):
        room -= count_columns(character)
        if room < 0:
            return text[:end]
    return text


def _pad(text: str, width: int) -> str:
    return text + " " * (width - count_columns(text))


def count_columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    joined = sum(unicodedata.category(character) in ("Mn", "Me", "Cf") for character in text)
    return len(text) + wide - joined


def count_of(count: int, noun: str) -> str:
    """Return ``1 name`` or ``2 names``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_bytes(count: int | None) -> str:
    """Return a size in decimal units, as hubs print them; ``-`` for an unknown one."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
