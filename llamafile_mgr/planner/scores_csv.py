"""A user's own scores: CSV with a row per model and a column per data set."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from llamafile_mgr.errors import InvalidFileError, UsageError
from llamafile_mgr.planner.leaderboard import Scores

#: Cells that say that there is no score.
_MISSING = frozenset({"", "-", "na", "n/a", "nan", "null", "none"})
_FORM = "the first line names the data sets, every other line is a model's name and its scores"


def parse_scores(text: str, name: str) -> Scores:
    """Read a table of scores; ``name`` of the file stands in errors. Commas, semicolons or tabs separate.

    Empty cells, ``-``, ``NA`` and ``NaN`` are missing scores.

    Raises:
        InvalidFileError: no header, no models, a row of another length, a name twice, a cell without number.
    """
    text = text.removeprefix("\ufeff")
    header_line = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=header_line.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator, strict=True) if any(row)]
    except csv.Error as error:
        raise InvalidFileError(f"{name} is not readable as CSV: {error}", hint=_FORM) from error
    if not rows or len(rows[0]) < 2:
        raise InvalidFileError(f"{name} has no columns of scores", hint=_FORM)
    header = [cell.strip() for cell in rows[0][1:]]
    _check_names(header, name, "data set")
    if len(rows) == 1:
        raise InvalidFileError(f"{name} has no models", hint=_FORM)
    models = [row[0].strip() for row in rows[1:]]
    _check_names(models, name, "model")
    return Scores(
        models=tuple(models),
        datasets=tuple(header),
        values=tuple(_read_row(row, header, name) for row in rows[1:]),
    )


def columns_of_tasks(
    scores: Scores, tasks: Sequence[str], known: Mapping[str, Iterable[str]]
) -> tuple[str, ...]:
    """Return the columns that belong to these categories.

    A column belongs to one when it bears its name (``STS``), begins with it (``sts:mine``), or is one of
    its data sets in ``known`` (``STS17 (en-en)`` is ``STS17``).

    Raises:
        UsageError: no column belongs to one of the categories.
    """
    homes = {_plain(dataset): task for task, datasets in known.items() for dataset in datasets}
    found = [column for column in scores.datasets if _task_of(column, homes, known) in tasks]
    for task in tasks:
        if not any(_task_of(column, homes, known) == task for column in found):
            raise UsageError(
                f"no column of the scores belongs to {task}",
                hint=f"name columns after MTEB's data sets, or write the category first, as in {task}:NAME",
            )
    return tuple(found)


def _task_of(column: str, homes: Mapping[str, str], known: Mapping[str, Iterable[str]]) -> str | None:
    prefix = column.partition(":")[0].strip().lower()
    if prefix in known:
        return prefix
    return homes.get(_plain(column))


def _plain(name: str) -> str:
    """Return a data set's name without its language, signs and case."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*\)", "", name).lower())


def _check_names(names: Sequence[str], file: str, what: str) -> None:
    seen: set[str] = set()
    for position, text in enumerate(names, start=1):
        if not text:
            raise InvalidFileError(f"{file}: {what} {position} has no name", hint=_FORM)
        if text in seen:
            raise InvalidFileError(f"{file} names the {what} {text} twice", hint="keep one of them")
        seen.add(text)


def _read_row(row: Sequence[str], header: Sequence[str], file: str) -> tuple[float | None, ...]:
    model = row[0].strip()
    if len(row) != len(header) + 1:
        raise InvalidFileError(
            f"{file}: {model} has {len(row) - 1} scores, the first line names {len(header)} data sets",
            hint="write an empty cell where a score is missing",
        )
    return tuple(
        _read_cell(cell, model, dataset, file) for cell, dataset in zip(row[1:], header, strict=True)
    )


def _read_cell(cell: str, model: str, dataset: str, file: str) -> float | None:
    text = cell.strip()
    if text.lower() in _MISSING:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidFileError(
            f"{file}: the score of {model} on {dataset} is {text!r}, which is no number",
            hint="leave the cell empty where a score is missing",
        )
    return number
