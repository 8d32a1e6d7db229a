"""The output of a bulk job that is one file, made of its finished fragments: JSON lines, NumPy or Parquet.

Every file is written aside and renamed when all of it is on the disk. The same fragments give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from llamafile_mgr.bulk.checkpoints import FinishedFragment
from llamafile_mgr.bulk.readers import import_parquet
from llamafile_mgr.bulk.tables import OutputFacts, fill_rows, make_schema, make_table, render_facts
from llamafile_mgr.errors import UsageError
from llamafile_mgr.files import store_errors, sync_directory, sync_file

Made = list[tuple[Path, Path]]
Read = Callable[[], Iterable[FinishedFragment]]


class OutputForm(StrEnum):
    """How an output holds its vectors."""

    JSONL = "jsonl"
    NPY = "npy"
    PARQUET = "parquet"
    FOLDER = "folder"


_SUFFIXES = {"": OutputForm.FOLDER, ".ndjson": OutputForm.JSONL} | {
    f".{form.value}": form for form in (OutputForm.JSONL, OutputForm.NPY, OutputForm.PARQUET)
}


def output_form(path: Path) -> OutputForm:
    """Return what an output of this name holds; one without a suffix is a folder of Parquet files.

    Raises:
        UsageError: the suffix tells nothing, or nothing writes Parquet here.
    """
    form = _SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise UsageError(
            f"the name of {path} does not say what it shall hold",
            hint="end it in .jsonl, .npy or .parquet, or give it no suffix for a folder of Parquet files",
        )
    if form in (OutputForm.FOLDER, OutputForm.PARQUET):
        import_parquet()
    return form


def render_lines(part: FinishedFragment, vector_space: str) -> Iterator[bytes]:
    """Yield a JSON line per text: its id, and its vector or its error."""
    for row, known in enumerate(part.ids):
        line: dict[str, Any] = {"id": known}
        failure = part.failures.get(row)
        if failure is not None:
            line["error"] = {"code": failure.code, "message": failure.message}
        else:
            line["vector_space"] = vector_space
            if row in part.truncated:
                line["truncated"] = part.truncated[row]
            line["embedding"] = part.vectors[row]
        yield orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def write_output(output: Path, read: Read, facts: OutputFacts, aside: Path) -> None:
    """Write ``output`` and what belongs to it; ``read`` gives the fragments in order, as often as asked.

    ``aside``: a folder on the same file system for what is not complete.

    Raises:
        StoreError: it cannot be written.
    """
    writers = {
        OutputForm.JSONL: _write_json,
        OutputForm.NPY: _write_numpy,
        OutputForm.PARQUET: _write_parquet,
    }
    made = writers[output_form(output)](output, read, facts, aside)
    with store_errors(output):
        for temporary, _ in made:
            sync_file(temporary)
        for temporary, final in made:
            os.replace(temporary, final)
        sync_directory(output.parent)


def _write_json(output: Path, read: Read, facts: OutputFacts, aside: Path) -> Made:
    temporary = aside / "merged.jsonl"
    with store_errors(temporary), temporary.open("wb") as stream:
        for part in read():
            stream.writelines(render_lines(part, facts.vector_space))
    return [(temporary, output)]


def _write_numpy(output: Path, read: Read, facts: OutputFacts, aside: Path) -> Made:
    """Write the matrix, and next to it ids, errors and facts; rows of failed texts are NaN."""
    names = {"matrix": "merged.npy", "ids": "merged.ids", "errors": "merged.errors", "facts": "merged.meta"}
    paths = {key: aside / name for key, name in names.items()}
    with (
        store_errors(aside),
        paths["matrix"].open("wb") as matrix,
        paths["ids"].open("wb") as ids,
        paths["errors"].open("wb") as errors,
    ):
        head = {"descr": "<f4", "fortran_order": False, "shape": (facts.texts, facts.dimensions)}
        np.lib.format.write_array_header_1_0(matrix, head)
        row = 0
        for part in read():
            matrix.write(fill_rows(part, facts.dimensions).tobytes())
            ids.writelines(orjson.dumps(known) + b"\n" for known in part.ids)
            for at, failure in sorted(part.failures.items()):
                said = {"row": row + at, "id": part.ids[at], "code": failure.code, "message": failure.message}
                errors.write(orjson.dumps(said) + b"\n")
            row += len(part.ids)
        paths["facts"].write_bytes(render_facts(facts))
    made = [
        (paths["ids"], output.with_suffix(".ids.jsonl")),
        (paths["facts"], output.with_suffix(".meta.json")),
    ]
    if facts.failed:
        made.append((paths["errors"], output.with_suffix(".errors.jsonl")))
    else:
        with store_errors(output):
            output.with_suffix(".errors.jsonl").unlink(missing_ok=True)
    return [*made, (paths["matrix"], output)]


def _write_parquet(output: Path, read: Read, facts: OutputFacts, aside: Path) -> Made:
    arrow = import_parquet()
    temporary = aside / "merged.parquet"
    numbers = all(isinstance(known, int) for part in read() for known in part.ids)
    schema = make_schema(facts, numbers=numbers)
    with (
        store_errors(temporary),
        temporary.open("wb") as stream,
        arrow.parquet.ParquetWriter(stream, schema) as writer,
    ):
        for part in read():
            writer.write_table(make_table(schema, part, facts.vector_space))
    return [(temporary, output)]
