"""Finished fragments as Parquet: all in one file at a job's end, or a file each as soon as it is finished.

The columns are the same: id, embedding (null where there is none), vector_space, error, truncated. What holds
for all rows stands in the schema's metadata.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from llamafile_mgr.bulk.checkpoints import FinishedFragment
from llamafile_mgr.bulk.readers import import_parquet
from llamafile_mgr.bulk.text_records import Failure, Id
from llamafile_mgr.errors import UsageError
from llamafile_mgr.files import store_errors, write_atomically

_META = "_meta.json"
_OURS = re.compile(r"_meta\.json|part-\d{9}\.parquet|\.(part-|_meta).*")
_REPEATED = ["vector_space", "error", "truncated"]
#: A new file is anybody's that may read new files of this user.
_MODE = 0o666


@dataclass(frozen=True, slots=True)
class OutputFacts:
    """What holds for all vectors of an output, in the order of its files, and how many texts it has."""

    model: str
    vector_space: str
    texts: int = 0
    failed: int = 0
    dimensions: int = 0
    input_type: str | None = None
    truncation: str = "error"


def render_facts(facts: OutputFacts) -> bytes:
    """Return the facts as JSON."""
    return orjson.dumps(asdict(facts), option=orjson.OPT_INDENT_2) + b"\n"


def make_schema(facts: OutputFacts, *, numbers: bool, **more: object) -> Any:
    """Return the schema of a file. ``numbers``: all ids are. ``more``: metadata beside the facts."""
    arrow = import_parquet()
    return arrow.schema(
        [
            ("id", arrow.int64() if numbers else arrow.string()),
            ("embedding", arrow.list_(arrow.float32(), max(1, facts.dimensions))),
            ("vector_space", arrow.string()),
            ("error", arrow.string()),
            ("truncated", arrow.string()),
        ],
        metadata={f"llamafile_mgr.{key}": str(value) for key, value in (asdict(facts) | more).items()},
    )


def make_table(schema: Any, part: FinishedFragment, vector_space: str) -> Any:
    """Return a fragment as a table of this schema."""
    arrow = import_parquet()
    numbers = schema.field("id").type == arrow.int64()
    ids: list[Id] = list(part.ids) if numbers else [str(known) for known in part.ids]
    columns = make_columns(part, schema.field("embedding").type.list_size, vector_space)
    return arrow.Table.from_arrays(
        [arrow.array(ids, schema.field("id").type), *columns.values()], schema=schema
    )


def make_columns(part: FinishedFragment, width: int, vector_space: str) -> dict[str, Any]:
    """Return the columns behind the ids, by name, their vectors ``width`` wide."""
    arrow = import_parquet()
    rows = range(len(part.ids))
    missing = [row in part.failures for row in rows]
    flat = arrow.array(fill_rows(part, width).reshape(-1), arrow.float32())
    failures = {row: f"{failure.code}: {failure.message}" for row, failure in part.failures.items()}
    return {
        "embedding": arrow.FixedSizeListArray.from_arrays(
            flat, width, mask=arrow.array(missing, arrow.bool_())
        ),
        "vector_space": arrow.array([None if failed else vector_space for failed in missing], arrow.string()),
        "error": arrow.array([failures.get(row) for row in rows], arrow.string()),
        "truncated": arrow.array([part.truncated.get(row) for row in rows], arrow.string()),
    }


def fill_rows(part: FinishedFragment, width: int) -> NDArray[np.float32]:
    """Return the vectors as little-endian float32; a fragment in which all failed may not know the width."""
    if part.vectors.shape[1] == width:
        return part.vectors.astype("<f4", copy=False)
    return np.full((len(part.ids), width), np.nan, "<f4")


class TableFolder:
    """A folder with a Parquet file per finished fragment, which is a job's output and its checkpoint at once.

    Ids are texts in all of them, since no file can know what ids the others have. ``facts``: they have 0
    dimensions while nothing tells how many.
    """

    def __init__(self, folder: Path, facts: OutputFacts) -> None:
        self._folder = folder
        self._facts = facts
        self._unsure: set[int] = set()

    def write(self, part: FinishedFragment) -> None:
        """Keep a finished fragment. Raises StoreError."""
        if len(part.failures) == len(part.ids):
            self._unsure.add(part.index)
        else:
            self._facts = replace(self._facts, dimensions=part.vectors.shape[1])
        facts = replace(self._facts, texts=len(part.ids), failed=len(part.failures))
        schema = make_schema(facts, numbers=False, digest=part.digest, exact=part.exact)
        stream = io.BytesIO()
        table = make_table(schema, part, facts.vector_space)
        import_parquet().parquet.write_table(
            table, stream, use_dictionary=_REPEATED, write_page_checksum=True
        )
        with store_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            write_atomically(self._path(part.index), stream.getvalue(), mode=_MODE)

    def read(self, index: int) -> FinishedFragment | None:
        """Return a finished fragment; None when it was not finished, or rotted since."""
        arrow = import_parquet()
        try:
            with arrow.parquet.ParquetFile(self._path(index), page_checksum_verification=True) as file:
                table = file.read()
            part = _restore(index, table)
        except (OSError, ValueError, KeyError, arrow.ArrowException):
            return None
        if len(part.failures) == len(part.ids):
            self._unsure.add(index)
        return part

    def finish(self, facts: OutputFacts) -> None:
        """Write what holds for all files, once all fragments are kept. Raises StoreError."""
        self._facts = facts
        for index in sorted(self._unsure):
            part = self.read(index)
            if part is not None and part.vectors.shape[1] != max(1, facts.dimensions):
                self.write(part)
        with store_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            write_atomically(self._folder / _META, render_facts(facts), mode=_MODE)
            for leftover in self._folder.glob(".part-*"):
                leftover.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what an earlier job has left. Raises StoreError."""
        with store_errors(self._folder):
            for path in _files(self._folder):
                if _OURS.fullmatch(path.name):
                    path.unlink()

    @staticmethod
    def check(folder: Path) -> bool:
        """Tell whether a folder holds anything.

        Raises:
            UsageError: it is none, or holds what no job has made.
        """
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is no folder", hint="end a file in .jsonl, .npy or .parquet")
        found = list(_files(folder))
        other = next((path for path in found if not _OURS.fullmatch(path.name)), None)
        if other is not None:
            raise UsageError(
                f"{folder} holds other files, such as {other.name}", hint="name a new or an empty folder"
            )
        return bool(found)

    def _path(self, index: int) -> Path:
        return self._folder / f"part-{index:09d}.parquet"


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from list(folder.iterdir())


def _restore(index: int, table: Any) -> FinishedFragment:
    """Return the fragment that a table was made of, its ids as texts."""
    said = table.schema.metadata
    errors, cut = table["error"].to_pylist(), table["truncated"].to_pylist()
    column = table["embedding"].combine_chunks()
    width = table.schema.field("embedding").type.list_size
    vectors = np.full((len(table), width), np.nan, np.float32)
    rows = [row for row, error in enumerate(errors) if error is None]
    if rows:
        vectors[rows] = column.drop_null().flatten().to_numpy().reshape(-1, width)
    failures = {row: Failure(*error.split(": ", 1)) for row, error in enumerate(errors) if error is not None}
    return FinishedFragment(
        index,
        said[b"llamafile_mgr.digest"].decode(),
        tuple(table["id"].to_pylist()),
        vectors,
        failures,
        {row: how for row, how in enumerate(cut) if how is not None},
        said[b"llamafile_mgr.exact"] == b"True",
    )
