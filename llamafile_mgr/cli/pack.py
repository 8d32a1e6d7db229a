"""``pack``: one file of a runtime and weights."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import format_bytes, print_json, print_line
from llamafile_mgr.errors import UsageError

if TYPE_CHECKING:
    from llamafile_mgr.store import Store


@click.command("pack")
@click.option(
    "--runtime",
    required=True,
    metavar="FILE|NAME|embedded",
    help="A bare runtime, such as llamafile-0.10.5, or the word embedded: the engine of this package.",
)
@click.option(
    "--weights",
    "weights",
    required=True,
    multiple=True,
    metavar="FILE|NAME",
    help="A GGUF, or a llamafile whose weights move to the new engine. Repeat it for a projector.",
)
@click.option(
    "--args",
    "arguments",
    multiple=True,
    metavar="TEXT",
    help="Arguments to embed, split as a shell splits them. May be repeated.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(
    context: Context,
    runtime: str,
    weights: tuple[str, ...],
    arguments: tuple[str, ...],
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Make a llamafile: a runtime, its weights and its arguments in one file.

    FILE is a path, NAME what `llamafile-mgr list` calls it.

    \b
    Examples:
      llamafile-mgr pack --runtime llamafile-0.10.5 --weights model.gguf -o model.llamafile
      llamafile-mgr pack --runtime embedded --weights minilm.gguf --args "--embedding -c 512" -o m.llamafile
      llamafile-mgr pack --runtime llamafile-0.10.5 --weights old.llamafile -o new.llamafile
    """
    from llamafile_mgr.llamafile import pack
    from llamafile_mgr.store import Store

    words = [word for text in arguments for word in _split(text)]
    store = Store(context.paths.store)
    inputs = [_locate(name, store) for name in weights]
    with _runtime_path(runtime, store) as path, _progress(as_json) as advance:
        result = pack(
            path,
            [path for path, _ in inputs],
            words,
            output,
            overwrite=force,
            names=[name for _, name in inputs],
            progress=advance,
        )
    if as_json:
        print_json(result)
        return
    print_line(f"{result.path}: {format_bytes(result.size)}, {', '.join(result.members)}")
    print_line(f"run it: sh {shlex.quote(str(result.path.absolute()))} --server")


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--args {text!r} cannot be split: {error}", hint="close the quotes") from error


def _locate(name: str, store: Store) -> tuple[Path, str]:
    """Return a file by its path or its name in the store, and what to call it inside the llamafile."""
    path = Path(name)
    if path.exists() or path.suffix:
        return path, path.stem
    entry = store.find(name)
    return entry.path, entry.model_id or entry.name


@contextlib.contextmanager
def _runtime_path(runtime: str, store: Store) -> Iterator[Path]:
    from llamafile_mgr.engines.families import made_runtimes

    made = made_runtimes().get(runtime)
    if made is None:
        yield _locate(runtime, store)[0]
        return
    with tempfile.TemporaryDirectory(prefix="llamafile-mgr-") as folder:
        path = Path(folder) / "runtime"
        path.write_bytes(made)
        yield path


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    import sys

    from tqdm import tqdm

    if quiet or not sys.stderr.isatty():
        yield None
        return
    with tqdm(unit="B", unit_scale=True, leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance
