"""Showing something again and again: in place on a terminal, one snapshot after the other in a pipe."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import time
from collections.abc import Callable
from datetime import datetime

import click

_HOME, _ERASE_LINE, _ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(show: Callable[[], None], seconds: float, *, as_json: bool) -> None:
    """Call ``show``, which prints, every so many seconds until Ctrl-C; its errors end it.

    In a pipe a snapshot is headed by the time and followed by an empty line; JSON is left as it is printed.
    """
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            text = _capture(show)
            if sys.stdout.isatty():
                click.echo(_redraw(text, *shutil.get_terminal_size()), nl=False, color=True)
            elif as_json:
                click.echo(text, nl=False)
            else:
                click.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S}\n{text}")
            sys.stdout.flush()
            time.sleep(seconds)


def _capture(show: Callable[[], None]) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        show()
    return output.getvalue()


def _redraw(text: str, columns: int, rows: int) -> str:
    """Return what replaces the whole screen by ``text``, cut to its size, without a moment of emptiness."""
    lines = [line if len(line) <= columns else line[: columns - 1] + "…" for line in text.splitlines()]
    if len(lines) >= rows:
        lines = [*lines[: rows - 2], f"… {len(lines) - rows + 2} more lines"]
    return _HOME + "".join(f"{line}{_ERASE_LINE}\n" for line in lines) + _ERASE_BELOW
