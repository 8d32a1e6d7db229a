"""Printing: tables for people, JSON for programs, errors to standard error."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence

import click

from llamafile_mgr.errors import Error

__all__ = ["format_bytes", "format_table", "print_error", "print_json", "print_json_line", "print_line"]


def print_line(text: str = "") -> None:
    """Write one line to standard output."""
    click.echo(text)


def print_json(value: object) -> None:
    """Write ``value`` as indented JSON to standard output; keys keep their order."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: object) -> None:
    """Write ``value`` as JSON on one line and flush, so that a reading program sees it at once."""
    click.echo(json.dumps(value, ensure_ascii=False))
    sys.stdout.flush()


def print_error(error: Error) -> None:
    """Write what happened, why and what to do to standard error."""
    click.echo(click.style("error: ", fg="red", bold=True) + error.message, err=True)
    if error.cause:
        click.echo(f"  why: {error.cause}", err=True)
    if error.hint:
        click.echo(f"  fix: {error.hint}", err=True)


def format_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return left-aligned columns; the last one is cut at the terminal's width when there is one."""
    lines = [tuple(headers), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    rendered = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "\n".join(
        text if limit is None or len(text) <= limit else text[: limit - 1] + "…" for text in rendered
    )


def format_bytes(count: int | None) -> str:
    """Return a size in decimal units, as hubs print them; ``-`` for an unknown one."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError("unreachable")
