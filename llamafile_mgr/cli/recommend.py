"""``recommend``: which models to run on this machine, and the leaderboard behind the choice."""

from __future__ import annotations

import typing
from pathlib import Path

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import format_bytes, format_table, print_json, print_line, styled

if typing.TYPE_CHECKING:
    from llamafile_mgr.planner.verdicts import ModelVerdict, Recommendation

_TASKS = ("clustering", "reranking", "retrieval", "sts")


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Return the bytes of ``8GB``, ``512MiB`` or a plain number, or fail as click does."""
    if value is None:
        return None
    from llamafile_mgr.config import parse_size
    from llamafile_mgr.errors import ConfigError

    try:
        return parse_size(value, "--max-memory")
    except ConfigError:
        raise click.BadParameter(f"{value!r} is no size; write 8GB, 512MiB or a number of bytes") from None


def _tasks(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Return the categories in their usual order, or fail as click does."""
    if value is None:
        return None
    words = {word.strip().lower() for word in value.split(",") if word.strip()}
    unknown = sorted(words - set(_TASKS))
    if unknown or not words:
        raise click.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no task; there are {', '.join(_TASKS)}"
        )
    return tuple(task for task in _TASKS if task in words)


@click.command("recommend")
@click.option("--commercial", is_flag=True, help="Only models whose licence allows commercial use.")
@click.option(
    "--max-memory", callback=_size, metavar="SIZE", help="What both models together may take, such as 8GB."
)
@click.option(
    "--doc-length",
    type=click.Choice(["short", "paragraph", "long"]),
    default="paragraph",
    show_default=True,
    help="How long a document is: a sentence, a paragraph, or pages.",
)
@click.option(
    "--corpus-size",
    type=click.IntRange(1, 10**12),
    default=10_000,
    show_default=True,
    help="Documents to index.",
)
@click.option("--with-generation", is_flag=True, help="Choose a generation model beside it.")
@click.option(
    "--machine",
    "machine_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Choose for the machine of this snapshot (doctor --json writes one).",
)
@click.option("--leaderboard", is_flag=True, help="Show the leaderboard instead.")
@click.option(
    "--tasks", callback=_tasks, metavar="LIST", help=f"Leaderboard: only these of {','.join(_TASKS)}."
)
@click.option(
    "--by", type=click.Choice(["mtr", "mean"]), help="Leaderboard: order by mean task rank or mean."
)
@click.option(
    "--scores",
    "scores_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Leaderboard: rank your own scores, CSV with a row per model and a column per data set.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(
    context: Context,
    commercial: bool,
    max_memory: int | None,
    doc_length: str,
    corpus_size: int,
    with_generation: bool,
    machine_file: Path | None,
    leaderboard: bool,
    tasks: tuple[str, ...] | None,
    by: str | None,
    scores_file: Path | None,
    as_json: bool,
) -> None:
    """Choose an embedding model, and a generation model beside it, for this machine and this use.

    \b
    Examples:
      llamafile-mgr recommend
      llamafile-mgr recommend --commercial --with-generation --max-memory 8GB
      llamafile-mgr recommend --doc-length long --corpus-size 200000 --machine server.json
      llamafile-mgr recommend --leaderboard --tasks retrieval,sts
      llamafile-mgr recommend --leaderboard --scores my-scores.csv --by mean
    """
    if leaderboard:
        _show_leaderboard(tasks, by or "mtr", scores_file, as_json)
        return
    if tasks or by or scores_file:
        raise click.UsageError("--tasks, --by and --scores belong to --leaderboard")
    from llamafile_mgr.catalog import load_catalog
    from llamafile_mgr.errors import PlanError
    from llamafile_mgr.launching.local_plans import find_site
    from llamafile_mgr.machine.snapshot import read_snapshot
    from llamafile_mgr.planner.recommendation import recommend
    from llamafile_mgr.planner.verdicts import DocLength, Use

    catalog, machine = load_catalog(), read_snapshot(machine_file) if machine_file else None
    use = Use(commercial, max_memory, DocLength(doc_length), corpus_size, with_generation)
    site = find_site(catalog, context.paths, machine, context.load_config().engines)
    answer = recommend(site, catalog, use)
    if as_json:
        print_json(answer.to_dict())
    else:
        _print_answer(answer)
    if not answer.complete:
        raise PlanError(
            "no set of models fits this machine and this use",
            hint="allow more with --max-memory, drop --with-generation or --commercial, or free memory",
        )


def _print_answer(answer: Recommendation) -> None:
    for label, verdict in (("embedding", answer.embedding), ("generation", answer.generation)):
        if verdict is not None:
            name = styled(f"{verdict.model}:{verdict.artifact}", bold=True)
            print_line(f"{label}: {name}")
            for reason in verdict.reasons:
                print_line(f"  - {reason}")
    others = [verdict for verdict in answer.verdicts if verdict.outcome.value != "chosen"]
    if others:
        print_line("\nwhy not the others:")
        print_line(format_table(("MODEL", "FOR", "VERDICT", "MEMORY", "REASON"), [_row(v) for v in others]))
    print_line("\nassumed:")
    for line in answer.assumptions:
        print_line(f"  - {line}")
    chosen = [v for v in (answer.embedding, answer.generation) if v is not None]
    if chosen:
        print_line("\nnext: llamafile-mgr pull " + " ".join(f"{v.model}:{v.artifact}" for v in chosen))
    if answer.embedding is not None:
        texts = answer.use.corpus_size
        bench = f"llamafile-mgr bench {answer.embedding.model} --scale --nodes 1 --texts {texts}"
        print_line(f"then: {bench}, which measures how long it takes here")


def _row(verdict: ModelVerdict) -> tuple[str, ...]:
    return (
        verdict.model,
        "embedding" if verdict.role.value == "embed" else "generation",
        verdict.outcome.value,
        format_bytes(verdict.memory),
        verdict.reasons[0],
    )


def _show_leaderboard(
    tasks: tuple[str, ...] | None, by: str, scores_file: Path | None, as_json: bool
) -> None:
    from llamafile_mgr.cli.leaderboard_view import board_to_dict, print_board
    from llamafile_mgr.planner.leaderboard import By, rank_models
    from llamafile_mgr.planner.published import load_published, published_scores

    published = load_published()
    if scores_file is None:
        board = rank_models(published_scores(published, tasks or _TASKS), By(by))
    else:
        from llamafile_mgr.planner.scores_csv import columns_of_tasks, parse_scores

        scores = parse_scores(_read_csv(scores_file), str(scores_file))
        if tasks:
            scores = scores.select(columns_of_tasks(scores, tasks, published.tasks))
        board = rank_models(scores, By(by))
    source = published if scores_file is None else None
    if as_json:
        print_json(board_to_dict(board, source, with_tables=tasks is None))
    else:
        print_board(board, source, with_tables=tasks is None)


def _read_csv(path: Path) -> str:
    from llamafile_mgr.errors import InvalidFileError, NotFoundError

    limit = 64 * 1024 * 1024
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except OSError as error:
        raise InvalidFileError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > limit:
        raise InvalidFileError(f"{path} is larger than 64 MB, which no table of scores is")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFileError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}", hint="save it as UTF-8 CSV"
        ) from error
