"""How a leaderboard is printed: a table for people, plain values for programs."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from llamafile_mgr.cli.output import format_table, print_line
from llamafile_mgr.planner.leaderboard import By, Leaderboard
from llamafile_mgr.planner.published import PUBLISHED_NOTE, TASKS, PublishedScores

#: More columns of scores than this are not printed; --json has them all.
_COLUMNS = 8


def print_board(board: Leaderboard, published: PublishedScores | None, *, with_tables: bool) -> None:
    """Print a leaderboard.

    ``published``: the post's figures, when it is they that are ranked. ``with_tables``: print its top-10
    table first.
    """
    if published is not None and with_tables:
        _print_published(published)
    kind = "category averages" if published is not None else "data sets"
    order = "mean task rank" if board.by is By.MTR else "mean score"
    print_line(f"{len(board.rows)} models by {order} over {len(board.datasets)} {kind}\n")
    shown = board.datasets if len(board.datasets) <= _COLUMNS else ()
    headers = ["RANK", "MODEL", "MTR", *(["MTR (POST)"] if published is not None else []), "MEAN", *shown]
    rows = []
    for row in board.rows:
        theirs = [] if published is None else [_places(published.mtr_of(row.model))]
        scores = [_places(score) for score in row.scores] if shown else []
        rows.append([f"{row.rank:g}", row.model, _places(row.mtr), *theirs, _places(row.mean), *scores])
    print_line(format_table(headers, rows))
    for note in _notes(board, published is not None):
        print_line(f"\n{note}")


def board_to_dict(
    board: Leaderboard, published: PublishedScores | None, *, with_tables: bool
) -> dict[str, object]:
    """Return a leaderboard as plain values for JSON."""
    rows: list[dict[str, object]] = []
    for row in board.rows:
        entry: dict[str, object] = {"rank": row.rank, "model": row.model, "mtr": row.mtr, "mean": row.mean}
        if published is not None:
            entry["published_mtr"] = published.mtr_of(row.model)
        entry["scores"] = dict(zip(board.datasets, row.scores, strict=True))
        entry["ranks"] = dict(zip(board.datasets, row.ranks, strict=True))
        rows.append(entry)
    tables = published and {name: getattr(published, name) for name in ("top", "categories", "averages")}
    return {
        "published": tables if with_tables else None,
        "by": board.by.value,
        "datasets": list(board.datasets),
        "rows": rows,
        "incomplete": {model: list(missing) for model, missing in board.incomplete.items()},
        "notes": list(_notes(board, published is not None)),
    }


def _print_published(published: PublishedScores) -> None:
    print_line("the post's ten best, by mean task rank over 40 data sets, as published\n")
    rows = [
        [str(place), m.name, *map(_places, (m.mtr, m.rag_average, *m.of(TASKS)))]
        for place, m in enumerate(published.top, start=1)
    ]
    print_line(format_table(["RANK", "MODEL", "MTR", "MEAN", *TASKS], rows) + "\n")


def _places(value: float | None) -> str:
    """Return two decimals, a half rounded up as in the post (65.035 is printed as 65.04)."""
    if value is None:
        return "-"
    return str(Decimal(repr(value)).quantize(Decimal("0.01"), ROUND_HALF_UP))


def _notes(board: Leaderboard, published: bool) -> tuple[str, ...]:
    notes = []
    if published:
        notes.append(PUBLISHED_NOTE)
        notes.append(
            f"MTR here ranks the {len(board.rows)} models that the post names on its category averages. MEAN "
            "weighs each average by its number of data sets: over all four it is the post's RAG average."
        )
    if board.incomplete:
        names = ", ".join(
            f"{model} ({len(missing)} missing, {missing[0]} first)"
            for model, missing in list(board.incomplete.items())[:5]
        )
        more = f" and {len(board.incomplete) - 5} more" if len(board.incomplete) > 5 else ""
        notes.append(
            f"Not ranked, because ranks over other data sets do not compare: {names}{more}. "
            "Leave out columns (or choose --tasks) to rank them."
        )
    return tuple(notes)
