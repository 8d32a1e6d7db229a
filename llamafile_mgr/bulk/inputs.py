"""From what a person names to the files that are read: files, folders and patterns, here and behind URLs."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llamafile_mgr.bulk.checkpoints import parts_folder
from llamafile_mgr.bulk.readers import TextInput, has_known_form
from llamafile_mgr.bulk.remote_files import is_shown, is_url, list_urls
from llamafile_mgr.errors import NotFoundError, UsageError

_STANDARD_INPUT = "-"
_WILD = frozenset("*?[")


def find_inputs(names: Sequence[str], like: TextInput, output: Path | None = None) -> tuple[TextInput, ...]:
    """Return the files that ``names`` mean, in the order of the names, each once.

    A folder (behind a URL one that ends in ``/``) means all files in it and below it whose names say what
    they hold (all of them, when ``like`` has a form), without those that begin with ``.`` or ``_``; a pattern
    means what it matches. Both are taken in the order of their names.

    ``like``: how all of them are read. ``output``: it, and what is kept for it, is never taken from a folder.

    Raises:
        NotFoundError: a folder has no such file, or a pattern matches none.
        UsageError: standard input beside files, or nothing opens such URLs here.
        InvalidFileError: a folder behind a URL cannot be read.
    """
    if _STANDARD_INPUT in names and len(names) > 1:
        raise UsageError("standard input goes alone", hint="name it, or files")
    found: dict[str, TextInput] = {}
    for name in names:
        for each in _find(name, like, output):
            found.setdefault(each.url or str(each.path and each.path.resolve()), each)
    inputs = tuple(found.values())
    return inputs if len(inputs) == 1 else tuple(replace(each, label=each.name) for each in inputs)


def _find(name: str, like: TextInput, output: Path | None) -> list[TextInput]:
    path = Path(name)
    if name == _STANDARD_INPUT:
        return [like]
    if is_url(name):
        urls = list_urls(name)
        if urls is None:
            return [replace(like, url=name)]
        found = [replace(like, url=url) for url in urls]
    elif path.is_dir():
        found = [replace(like, path=each) for each in _walk(path, output)]
    elif _WILD & set(name) and not path.exists():
        matches = sorted(Path(each) for each in glob.glob(name, recursive=True))
        found = [replace(like, path=each) for each in matches if each.is_file()]
    else:
        return [replace(like, path=path)]
    if not _WILD & set(name):
        found = [each for each in found if has_known_form(each)]
    if not found:
        raise NotFoundError(
            f"{name} has no file to read",
            hint="it takes .txt, .jsonl, .csv, .tsv and .parquet, and others with --input-format",
        )
    return found


def _walk(folder: Path, output: Path | None) -> list[Path]:
    """Return the shown files below a folder, in order."""
    made = {output.resolve(), parts_folder(output.resolve())} if output is not None else set()
    return sorted(
        each
        for each in folder.rglob("*")
        if each.is_file()
        and is_shown(each.relative_to(folder).as_posix())
        and not made & {each.resolve(), *each.resolve().parents}
    )
