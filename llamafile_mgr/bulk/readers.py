"""Texts from files of several forms, one after the other, however large the file.

What is wrong with one item stands in its record; only what makes the whole input unreadable is raised.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from llamafile_mgr.bulk.remote_files import open_url
from llamafile_mgr.bulk.text_records import Id, TextRecord, bad_record, make_record
from llamafile_mgr.errors import InvalidFileError, NotFoundError, UsageError

#: Where a text stands when nobody says: the first of these that is there.
TEXT_COLUMNS = ("text", "content", "body", "document", "passage", "sentence", "input")
ID_COLUMNS = ("id", "_id", "doc_id")
#: A longer line is no text that anybody wants embedded.
_MAX_LINE_BYTES = 64 * 1024 * 1024
_BATCH_ROWS = 1024
#: So much of a table is looked at to tell how it is written.
_HEAD_CHARACTERS = 1 << 16


class InputForm(StrEnum):
    """How an input holds its texts."""

    TXT = "txt"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


_SUFFIXES = {".txt": InputForm.TXT, ".ndjson": InputForm.JSONL} | {
    f".{form.value}": form for form in InputForm
}


@dataclass(frozen=True, slots=True)
class TextInput:
    """Where texts come from. ``path`` None: standard input, or ``url`` or ``texts`` where they are given.

    ``form`` None: by the file's suffix; standard input holds lines. ``text_column``, ``id_column``: the names
    of a column or key; None takes the usual ones. Items without an id get their number, from 1, behind
    ``label`` and a colon where there is one, as it is for one input of several.
    """

    path: Path | None = None
    texts: tuple[str, ...] | None = None
    form: InputForm | None = None
    text_column: str | None = None
    id_column: str | None = None
    url: str | None = None
    label: str | None = None

    def number(self, place: int) -> Id:
        """Return the id of the item at this place when it has none of its own."""
        return place if self.label is None else f"{self.label}:{place}"

    @property
    def name(self) -> str:
        """Return what errors call it."""
        return self.url or str(self.path or "standard input")


def form_of(source: TextInput) -> InputForm:
    """Return how ``source`` holds its texts.

    Raises:
        UsageError: the suffix tells nothing, or the form cannot come from standard input.
    """
    if source.path is None and source.url is None:
        if source.form is InputForm.PARQUET:
            raise UsageError("a Parquet file cannot come from standard input", hint="name the file")
        return source.form or InputForm.TXT
    file = source.path or Path(urlsplit(source.url or "").path)
    form = source.form or _SUFFIXES.get(file.suffix.lower())
    if form is None:
        raise UsageError(
            f"the name of {source.name} does not say what it holds",
            hint=f"say it with --input-format: {', '.join(each.value for each in InputForm)}"
            + ("; a folder ends in /" if source.url is not None else ""),
        )
    return form


def has_known_form(source: TextInput) -> bool:
    """Tell whether a file's name says what it holds, or a person did."""
    file = source.path or Path(urlsplit(source.url or "").path)
    return source.form is not None or file.suffix.lower() in _SUFFIXES


def read_texts(source: TextInput) -> Iterator[TextRecord]:
    """Yield every item of ``source`` in order.

    Raises:
        NotFoundError: there is no such file.
        InvalidFileError: it is not what it should be, or has no such column.
        UsageError: nothing reads Parquet here, or the form is unknown.
    """
    if source.texts is not None:
        return (
            make_record(source.number(n), None, text, f"text {n}") for n, text in enumerate(source.texts, 1)
        )
    form = form_of(source)
    if form in (InputForm.TXT, InputForm.JSONL):
        return _read_lines(source, _decode if form is InputForm.TXT else _parse)
    return (_read_parquet if form is InputForm.PARQUET else _read_table)(source)


def count_texts(source: TextInput) -> int | None:
    """Return about how many items there are: exact for given texts and Parquet, lines of other files.

    None for what would have to be fetched, or cannot be read, twice.
    """
    if source.texts is not None:
        return len(source.texts)
    form = form_of(source)
    if form is InputForm.PARQUET:
        with _parquet_file(source) as file:
            return int(file.metadata.num_rows)
    if source.path is None:
        return None
    lines, last = 0, b"\n"
    with _opened(source) as stream:
        while block := stream.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n") - (form in (InputForm.CSV, InputForm.TSV))


@contextmanager
def _opened(source: TextInput) -> Iterator[BinaryIO]:
    if source.url is not None:
        with open_url(source.url) as remote:
            yield remote
        return
    if source.path is None:
        # Not sys.stdin: its end would wait for a thread that still reads.
        with open(0, "rb", closefd=False) as stream:
            yield stream
        return
    try:
        stream = source.path.open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {source.path}") from error
    except OSError as error:
        raise NotFoundError(f"cannot read {source.path}: {error.strerror or error}") from error
    with stream:
        yield stream


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield lines without their ends; None for one that is too long."""
    first = True
    while line := stream.readline(_MAX_LINE_BYTES):
        whole = line.endswith(b"\n") or len(line) < _MAX_LINE_BYTES
        while not line.endswith(b"\n") and len(line) == _MAX_LINE_BYTES:
            line = stream.readline(_MAX_LINE_BYTES)
        if first:
            line = line.removeprefix(b"\xef\xbb\xbf")
            first = False
        yield line.rstrip(b"\r\n") if whole else None


def _read_lines(
    source: TextInput, read: Callable[[bytes, TextInput, Id, str], TextRecord]
) -> Iterator[TextRecord]:
    """Read an item per line; blank lines are none, and the number of the line is the id."""
    with _opened(source) as stream:
        for number, line in enumerate(_lines(stream), 1):
            what, place = f"line {number}", source.number(number)
            if number == 1 and line is not None and (b"\0" in line or line.startswith(b"\xff\xfe")):
                raise _not_utf8(source)
            if line is None:
                yield bad_record(place, f"{what} is longer than {_MAX_LINE_BYTES} bytes")
            elif line.strip():
                yield read(line, source, place, what)


def _decode(line: bytes, source: TextInput, place: Id, what: str) -> TextRecord:
    try:
        return make_record(place, None, line.decode(), what)
    except UnicodeDecodeError:
        return bad_record(place, f"{what} is no UTF-8")


def _parse(line: bytes, source: TextInput, place: Id, what: str) -> TextRecord:
    """Read an object or a text."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return bad_record(place, f"{what} is no JSON: {error}")
    if isinstance(value, str):
        return make_record(place, None, value, what)
    if not isinstance(value, dict):
        return bad_record(place, f"{what} is neither an object nor a text")
    text, key = _pick(value, source.text_column, TEXT_COLUMNS), _pick(value, source.id_column, ID_COLUMNS)
    return make_record(place, value.get(key), value.get(text), what)


def _pick(names: Any, wanted: str | None, usual: Sequence[str]) -> str | None:
    """Return the name that is wanted, or the first usual one that is there."""
    if wanted is not None:
        return wanted
    return next((name for name in usual if name in names), None)


def _column(names: Sequence[str], wanted: str | None, usual: Sequence[str], source: TextInput) -> str | None:
    """Return which column of a table is meant.

    Raises:
        InvalidFileError: the wanted one is not there.
    """
    if wanted is not None and wanted not in names:
        shown = ", ".join(names)[:300]
        raise InvalidFileError(f"{source.name} has no column {wanted!r}", hint=f"its columns: {shown}")
    lowered = {name.lower(): name for name in reversed(names)}
    return wanted or next((lowered[name] for name in usual if name in lowered), None)


def _text_column(names: Sequence[str], source: TextInput) -> str:
    found = _column(names, source.text_column, TEXT_COLUMNS, source)
    if found is None and len(names) == 1:
        return names[0]
    if found is None:
        shown = ", ".join(names)[:300]
        raise InvalidFileError(
            f"which column of {source.name} holds the texts?", hint=f"say it with --text-column: {shown}"
        )
    return found


def _read_table(source: TextInput) -> Iterator[TextRecord]:
    """Read a table with a header; the number of the row is the id when no column is."""
    csv.field_size_limit(_MAX_LINE_BYTES)
    with _opened(source) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
        head = text.read(_HEAD_CHARACTERS) + text.readline(_MAX_LINE_BYTES)
        rows = csv.reader(itertools.chain(io.StringIO(head, newline=""), text), _dialect(head, source))
        try:
            header = next(rows, None)
            if header is None:
                raise InvalidFileError(f"{source.name} is empty, without a header")
            yield from _read_rows(rows, header, source)
        except csv.Error as error:
            raise InvalidFileError(
                f"{source.name} cannot be read as a table, at line {rows.line_num} or before: {error}",
                cause="a quote that begins a text is not closed, or stands where none may",
                hint='a text in quotes has each of its own quotes twice: "a ""b"" c"',
            ) from error
        finally:
            text.detach()


def _dialect(head: str, source: TextInput) -> type[csv.Dialect]:
    """Return how the table is written that begins with these lines. Raises InvalidFileError."""
    first = head.partition("\n")[0]
    if "\0" in first or first.startswith("\udcff\udcfe"):
        raise _not_utf8(source)
    if form_of(source) is InputForm.TSV:
        return _TabsAndQuotes if _is_quoted(head) else _Tabbed
    usual = (source.text_column,) if source.text_column is not None else TEXT_COLUMNS

    def fits(dialect: type[csv.Dialect]) -> tuple[bool, int]:
        with contextlib.suppress(csv.Error):
            names = next(csv.reader([first], dialect), [])
            return any(name in usual or name.lower() in usual for name in names), len(names)
        return False, 0

    return max((_Commas, _Semicolons, _TabsAndQuotes), key=fits)


def _is_quoted(head: str) -> bool:
    """Tell whether a table with tabs has texts in quotes, as spreadsheets write it.

    So read, every row fits its header, and none is lost that would fit as it stands.
    """
    quoted, plain = _widths(head, _TabsAndQuotes), _widths(head, _Tabbed)
    return len(set(quoted)) == 1 and (len(quoted) == len(plain) or len(set(plain)) > 1)


def _widths(head: str, dialect: type[csv.Dialect]) -> list[int]:
    """Return the numbers of fields of the rows that are not blank, none where these cannot be read."""
    widths: list[int] = []
    rows = csv.reader(io.StringIO(head, newline=""), dialect)
    try:
        widths.extend(len(row) for row in rows if row)
    except csv.Error:
        cut = len(head) >= _HEAD_CHARACTERS and rows.line_num == head.count("\n")
        return widths if cut else []
    return widths


class _Commas(csv.excel):
    strict = True


class _Semicolons(_Commas):
    """As spreadsheets write it where the comma parts decimals."""

    delimiter = ";"


class _TabsAndQuotes(_Commas):
    delimiter = "\t"


class _Tabbed(csv.excel_tab):
    """IANA's text/tab-separated-values, in which a quote is a letter like others."""

    quoting = csv.QUOTE_NONE


def _not_utf8(source: TextInput) -> InvalidFileError:
    return InvalidFileError(
        f"{source.name} is no UTF-8 text", hint="if it is UTF-16: iconv -f UTF-16 -t UTF-8 FILE > NEW"
    )


def _read_rows(rows: Iterator[list[str]], header: list[str], source: TextInput) -> Iterator[TextRecord]:
    text_at = header.index(_text_column(header, source))
    id_column = _column(header, source.id_column, ID_COLUMNS, source)
    id_at = header.index(id_column) if id_column is not None else None
    for number, row in enumerate((row for row in rows if row), 1):
        known = row[id_at] if id_at is not None and id_at < len(row) else None
        if len(row) == len(header):
            yield make_record(source.number(number), known, row[text_at], f"row {number}")
            continue
        # What stands before the text is where it belongs, whatever follows.
        told = known if id_at is not None and id_at < text_at else None
        yield bad_record(
            source.number(number) if told is None else told,
            f"row {number} has {len(row)} fields where the header has {len(header)}: a text that holds what "
            "parts them stands in quotes",
        )


def import_parquet() -> Any:
    """Return ``pyarrow`` with its Parquet module.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "nothing here reads or writes Parquet", hint="pip install 'llamafile-mgr[parquet]'"
        ) from error
    return pyarrow


@contextmanager
def _parquet_file(source: TextInput) -> Iterator[Any]:
    arrow = import_parquet()
    try:
        file = arrow.parquet.ParquetFile(open_url(source.url) if source.url is not None else source.path)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {source.name}") from error
    except (OSError, arrow.ArrowException) as error:
        raise InvalidFileError(f"{source.name} is no Parquet file: {error}") from error
    with file:
        yield file


def _read_parquet(source: TextInput) -> Iterator[TextRecord]:
    arrow = import_parquet()
    with _parquet_file(source) as file:
        names = list(file.schema_arrow.names)
        text = _text_column(names, source)
        known = _column(names, source.id_column, ID_COLUMNS, source)
        number = 0
        try:
            for batch in file.iter_batches(_BATCH_ROWS, columns=[text] if known is None else [text, known]):
                table = batch.to_pydict()
                ids = table[known] if known is not None else [None] * len(batch)
                for value, each in zip(table[text], ids, strict=True):
                    number += 1
                    yield make_record(source.number(number), each, value, f"row {number}")
        except (OSError, arrow.ArrowException) as error:
            raise InvalidFileError(f"{source.name} is damaged: {error}") from error
