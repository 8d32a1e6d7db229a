"""Every form of input: what is a text, what its id, and what is said of what is neither."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafile_mgr.bulk.readers import InputForm, TextInput, count_texts, read_texts
from llamafile_mgr.bulk.text_records import TextRecord, split_fragments
from llamafile_mgr.errors import Error, InvalidFileError, NotFoundError, UsageError

FEW = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=30)


MISFIT = "fields where the header has 2: a text that holds what parts them stands in quotes"
NO_ID, NO_OBJECT = "has an id that is neither a number nor a text", "is neither an object nor a text"


def read(path: Path, content: bytes | None = None, **options: object) -> list[TextRecord]:
    if content is not None:
        path.write_bytes(content)
    return list(read_texts(TextInput(path, **options)))  # type: ignore[arg-type]


def shown(records: list[TextRecord]) -> list[object]:
    return [(r.id, r.failure.message if r.failure else r.text) for r in records]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"one\n\n  \ntwo\r\nthree", [(1, "one"), (4, "two"), (5, "three")]),
        ("a.txt", b"\xef\xbb\xbfone\n\xff\n", [(1, "one"), (2, "line 2 is no UTF-8")]),
        ("a.txt", b"", []),
        ("a.JSONL", b'{"id": "x", "text": "one"}\n\n"two"\n', [("x", "one"), (3, "two")]),
        ("a.jsonl", b'{"content": "c", "_id": 7}\n{"body": "b"}\n', [(7, "c"), (2, "b")]),
        ("a.jsonl", b'[1]\n{"text": 3, "id": 9}\n', [(1, f"line 1 {NO_OBJECT}"), (9, "line 2 has no text")]),
        ("a.jsonl", b'{"text": "\\ud800", "id": 1}\n', [(1, "line 1 is no Unicode text")]),
        ("a.jsonl", b'{"text": "x", "id": 99999999999999999999}\n', [("99999999999999999999", "x")]),
        ("a.jsonl", b'{"text": "x", "id": 1.5}\n', [(1, f"line 1 {NO_ID}")]),
        ("a.jsonl", b'{"text": "x", "id": true}\n', [(1, f"line 1 {NO_ID}")]),
        ("a.csv", b'id,Text\n1,"a, ""b""\nc"\n2,d\n', [("1", 'a, "b"\nc'), ("2", "d")]),
        ("a.csv", b"\xef\xbb\xbfdocument,x\none,1\n\ntwo\n", [(1, "one"), (2, f"row 2 has 1 {MISFIT}")]),
        ("a.csv", b"anything\none\n", [(1, "one")]),
        ("a.csv", b"id,text\n5\n", [("5", f"row 1 has 1 {MISFIT}")]),
        ("a.csv", b"id,text\n5,a, b\n6,c\n", [("5", f"row 1 has 3 {MISFIT}"), ("6", "c")]),
        ("a.csv", b"text,id\na, b,5\n", [(1, f"row 1 has 3 {MISFIT}")]),
        ("a.csv", b'id;text\n5;"a; b, c"\n6;d, e\n', [("5", "a; b, c"), ("6", "d, e")]),
        ("a.csv", b"id\ttext\n5\ta, b\n", [("5", "a, b")]),
        ("a.csv", b"text\na; b\n", [(1, "a; b")]),
        ("a.tsv", b'id\ttext\n5\t"a\n6\tb\n', [("5", '"a'), ("6", "b")]),
        ("a.tsv", b'id\ttext\n5\t"a\n6\tb"\n', [("5", '"a'), ("6", 'b"')]),
        ("a.tsv", b'id\ttext\n5\t"a" b\n6\t"c"\n', [("5", '"a" b'), ("6", '"c"')]),
        ("a.tsv", b'"id"\t"text"\r\n"5"\t"a ""b""\r\nc"\r\n', [("5", 'a "b"\r\nc')]),
        ("a.csv", b"text\n\xff\n", [(1, "row 1 is no Unicode text")]),
        ("a.tsv", b"text\tid\na b\tk\n", [("k", "a b")]),
    ],
)  # fmt: skip
def test_forms(tmp_path: Path, name: str, content: bytes, expected: list[object]) -> None:
    assert shown(read(tmp_path / name, content)) == expected


def test_no_json_says_why(tmp_path: Path) -> None:
    (record,) = read(tmp_path / "a.jsonl", b"{nonsense}\n")
    assert record.failure is not None
    assert record.failure.message.startswith("line 1 is no JSON")
    assert read(tmp_path / "b.jsonl", b"[" * 100_000 + b"\n")[0].failure is not None


def test_columns_can_be_named(tmp_path: Path) -> None:
    table = b"key,title,other\nk,t,o\n"
    assert shown(read(tmp_path / "a.csv", table, text_column="other", id_column="key")) == [("k", "o")]
    lines = b'{"key": "k", "other": "o", "text": "t"}\n'
    assert shown(read(tmp_path / "a.jsonl", lines, text_column="other", id_column="key")) == [("k", "o")]


def write_parquet(path: Path, **columns: object) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", id=[3, None], text=["one", None], x=[1, 2])
    assert shown(read(path)) == [(3, "one"), (2, "row 2 has no text")]
    assert count_texts(TextInput(path)) == 2
    only = write_parquet(tmp_path / "b.parquet", whatever=["one"])
    assert shown(read(only)) == [(1, "one")]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InvalidFileError, match="no Parquet file"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "options", "error", "says"),
    [
        ("none.txt", None, {}, NotFoundError, "there is no file"),
        ("a.docx", b"x", {}, UsageError, "--input-format"),
        ("a.csv", b"", {}, InvalidFileError, "without a header"),
        ("a.csv", b"a,b\n1,2\n", {}, InvalidFileError, "--text-column: a, b"),
        ("a.csv", b"a,b\n1,2\n", {"text_column": "c"}, InvalidFileError, "no column 'c'"),
        ("a.csv", b"text,b\n1,2\n", {"id_column": "c"}, InvalidFileError, "no column 'c'"),
        ("none.parquet", None, {}, NotFoundError, "there is no file"),
        ("a.csv", b'text\na\n"b\nc\nd\n', {}, InvalidFileError, "at line 5 or before"),
        ("a.csv", b'text\n"b" c\n', {}, InvalidFileError, "is not closed, or stands where none may"),
        ("a.csv", "id,text\n1,a\n".encode("utf-16"), {}, InvalidFileError, "is no UTF-8 text"),
        ("a.csv", "id,text\n1,a\n".encode("utf-16-be"), {}, InvalidFileError, "is no UTF-8 text"),
        ("a.txt", "one\ntwo\n".encode("utf-16"), {}, InvalidFileError, "is no UTF-8 text"),
        ("a.jsonl", '"one"\n'.encode("utf-16-le"), {}, InvalidFileError, "is no UTF-8 text"),
    ],
)
def test_inputs_that_cannot_be_read(
    tmp_path: Path, name: str, content: bytes | None, options: dict[str, str], error: type[Error], says: str
) -> None:
    with pytest.raises(error) as caught:
        read(tmp_path / name, content, **options)
    assert says in caught.value.describe()


def test_given_texts_and_standard_input_forms() -> None:
    assert shown(list(read_texts(TextInput(texts=("a", "b"))))) == [(1, "a"), (2, "b")]
    assert count_texts(TextInput(texts=("a", "b"))) == 2
    assert count_texts(TextInput()) is None
    with pytest.raises(UsageError, match="standard input"):
        read_texts(TextInput(form=InputForm.PARQUET))


@FEW
@given(TEXTS)
def test_whatever_is_written_is_read(tmp_path: Path, texts: list[str]) -> None:
    lines = "".join(json.dumps({"id": f"k{n}", "text": text}) + "\n" for n, text in enumerate(texts))
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("id", "text"), *((f"k{n}", text) for n, text in enumerate(texts))])
    expected = [(f"k{n}", text) for n, text in enumerate(texts)]
    assert shown(read(tmp_path / "a.jsonl", lines.encode())) == expected
    if not any("\0" in text or "\r" in text for text in texts):
        assert shown(read(tmp_path / "a.csv", table.getvalue().encode())) == expected
    ids = pyarrow.array([each[0] for each in expected], pyarrow.string())
    path = write_parquet(tmp_path / "a.parquet", id=ids, text=pyarrow.array(texts, pyarrow.string()))
    assert shown(read(path)) == expected


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_long_texts_of_several_lines_are_read_whole(tmp_path: Path, suffix: str) -> None:
    texts = [f"line {n}\n" * 999 for n in range(40)]
    table = io.StringIO(newline="")
    writer = csv.writer(table, "excel-tab" if suffix == "tsv" else "excel")
    writer.writerows([("id", "text"), *((f"k{n}", text) for n, text in enumerate(texts))])
    found = shown(read(tmp_path / f"a.{suffix}", table.getvalue().encode()))
    assert found == [(f"k{n}", text) for n, text in enumerate(texts)]


@FEW
@given(st.binary(max_size=300), st.sampled_from([".txt", ".jsonl", ".csv", ".tsv", ".parquet"]))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    try:
        records = read(tmp_path / f"a{suffix}", content)
    except InvalidFileError:
        return
    for record in records:
        record.text.encode()
        str(record.id).encode()


@given(st.integers(0, 40), st.integers(1, 9))
def test_fragments_hold_everything_once(count: int, size: int) -> None:
    records = [TextRecord(n, f"text {n}") for n in range(count)]
    fragments = list(split_fragments([records], size))
    assert [record for each in fragments for record in each.records] == records
    assert [each.index for each in fragments] == list(range(len(fragments)))
    assert all(len(each.records) == size for each in fragments[:-1])


def test_a_digest_tells_any_change() -> None:
    def digest(*records: TextRecord) -> str:
        return next(split_fragments([records], 9)).digest

    whole = digest(TextRecord(1, "ab"), TextRecord(2, "c"))
    assert whole == digest(TextRecord(1, "ab"), TextRecord(2, "c"))
    for other in [
        (TextRecord(1, "a"), TextRecord(2, "bc")),
        (TextRecord("1", "ab"), TextRecord(2, "c")),
        (TextRecord(2, "c"), TextRecord(1, "ab")),
        (TextRecord(1, "ab"),),
    ]:
        assert digest(*other) != whole
