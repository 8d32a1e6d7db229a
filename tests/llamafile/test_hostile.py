"""Hostile files: every one ends in facts or in InvalidFileError, in little memory and bounded work."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafile_mgr.errors import InvalidFileError
from llamafile_mgr.llamafile import FileKind, inspect_file
from llamafile_mgr.llamafile.byte_source import Cursor, open_source
from llamafile_mgr.llamafile.zip_records import end_records
from tests.llamafile.llamafile_samples import head, member, write_llamafile

fuzzed = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def outcome(path: Path) -> FileKind | None:
    """Return the kind, None for a refused file; anything else that is raised fails the test."""
    try:
        return inspect_file(path).kind
    except InvalidFileError:
        return None


def llamafile_of(
    *members: tuple[bytes, bytes], directory: bytes | None = None, end: bytes | None = None
) -> bytes:
    """Return a head, (local header and data, central record) pairs, a directory and its end."""
    body = head() + b"".join(local for local, _ in members)
    records = b"".join(record for _, record in members) if directory is None else directory
    tail = end_records(len(members), len(records), len(body)) if end is None else end
    return body + records + tail


def patched(record: bytes, **fields: int) -> bytes:
    """Return a central record with some of its fields overwritten."""
    places = {
        "flags": (8, "<H"),
        "method": (10, "<H"),
        "packed": (20, "<I"),
        "size": (24, "<I"),
        "name_size": (28, "<H"),
        "extra_size": (30, "<H"),
        "offset": (42, "<I"),
    }
    data = bytearray(record)
    for field, value in fields.items():
        at, layout = places[field]
        struct.pack_into(layout, data, at, value)
    return bytes(data)


START = len(head())
LOCAL, RECORD = member(".args", b"-c\n1\n", START)
BODY = len(head()) + len(LOCAL)
COMMENT = b"x" * 30

ZIPS = {
    "a name longer than the directory": (llamafile_of((LOCAL, patched(RECORD, name_size=60_000))), "ZIP"),
    "an extra field longer than the directory": (
        llamafile_of((LOCAL, patched(RECORD, extra_size=9_999))),
        "ZIP",
    ),
    "an offset beyond the file": (llamafile_of((LOCAL, patched(RECORD, offset=1 << 31))), "overlap or reach"),
    "a size beyond the file": (llamafile_of((LOCAL, patched(RECORD, packed=1 << 30))), "overlap or reach"),
    "a member that claims to unpack to 4 GB": (
        llamafile_of((LOCAL, patched(RECORD, size=0xFFFFFFFE))),
        "larger",
    ),
    "sizes that need a ZIP64 field": (
        llamafile_of((LOCAL, patched(RECORD, size=0xFFFFFFFF))),
        "ZIP64 fields",
    ),
    "an encrypted member": (llamafile_of((LOCAL, patched(RECORD, flags=0x801))), "encrypted"),
    "an unknown method in the directory alone": (
        llamafile_of((LOCAL, patched(RECORD, method=99))),
        "header of",
    ),
    "the same bytes twice": (llamafile_of((LOCAL, RECORD), (b"", RECORD)), "overlap"),
    "one name twice": (llamafile_of((LOCAL, RECORD), member(".args", b"-c\n2\n", BODY)), "twice"),
    "another name in the local header": (
        llamafile_of((LOCAL.replace(b".args", b".argz"), RECORD)),
        "something else",
    ),
    "a broken local header": (llamafile_of((b"PK\x03\x05" + LOCAL[4:], RECORD)), "header of"),
    "a wrong checksum": (llamafile_of((LOCAL[:-1] + b"9", RECORD)), "damaged"),
    "a local extra field that reaches into the directory": (
        llamafile_of((LOCAL[:28] + struct.pack("<H", 0xFFFF) + LOCAL[30:], RECORD)),
        "overlap or reach",
    ),
    "more entries than the directory holds": (
        llamafile_of((LOCAL, RECORD), end=end_records(2, len(RECORD), BODY)),
        "cut short",
    ),
    "2^40 entries": (llamafile_of((LOCAL, RECORD), end=end_records(1 << 40, len(RECORD), BODY)), "claims"),
    "a directory of 2^60 bytes": (llamafile_of((LOCAL, RECORD), end=end_records(1, 1 << 60, BODY)), "claims"),
    "a directory at 2^63": (
        llamafile_of((LOCAL, RECORD), end=end_records(1, len(RECORD), 1 << 63)),
        "truncated",
    ),
    "a directory behind itself": (
        llamafile_of((LOCAL, RECORD), end=end_records(1, len(RECORD), BODY + 1_000)),
        "truncated",
    ),
    "a directory larger than the file": (
        llamafile_of((LOCAL, RECORD), end=end_records(1, 100_000, BODY)),
        "truncated",
    ),
    "a directory of zeros": (llamafile_of((LOCAL, RECORD), directory=bytes(len(RECORD))), "broken"),
    "ZIP64 figures without a ZIP64 directory": (
        llamafile_of((LOCAL, RECORD), end=struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 9, 9, 0)),
        "missing",
    ),
    "a locator that points nowhere": (
        llamafile_of(
            (LOCAL, RECORD),
            end=struct.pack("<4sIQI", b"PK\6\7", 0, 1 << 62, 1)
            + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 0, 0xFFFFFFFF, 0),
        ),
        "missing",
    ),
    "several volumes": (
        llamafile_of((LOCAL, RECORD), end=struct.pack("<4s4H2IH", b"PK\5\6", 1, 1, 1, 1, 9, 9, 0)),
        "no ZIP directory",
    ),
}


@pytest.mark.parametrize("case", ZIPS, ids=list(ZIPS))
def test_a_zip_that_lies(tmp_path: Path, case: str) -> None:
    data, message = ZIPS[case]
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(InvalidFileError, match=message):
        inspect_file(path)


def test_the_honest_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(llamafile_of((LOCAL, RECORD)))
    assert outcome(path) is FileKind.RUNTIME


def test_a_zip_comment_may_hold_another_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    fake = b"PK\x05\x06" + b"\xff" * 14
    path.write_bytes(llamafile_of((LOCAL, RECORD))[:-2] + struct.pack("<H", len(fake)) + fake)
    assert outcome(path) is FileKind.RUNTIME


def test_a_bomb_in_the_arguments(tmp_path: Path, bert: Path) -> None:
    path = write_llamafile(tmp_path / "x", bert)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(".args", bytes(50_000_000))
    with pytest.raises(InvalidFileError, match="larger than"):
        inspect_file(path)


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(50_000_000)) + packer.flush()
    local, record = member(".args", packed, START)
    local = local[:8] + struct.pack("<H", 8) + local[10:]
    path = tmp_path / "x"
    path.write_bytes(llamafile_of((local, patched(record, method=8, size=100))))
    with pytest.raises(InvalidFileError, match="damaged"):
        inspect_file(path)


def test_every_length_up_to_64_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for start in (b"", b"GGUF", b"GGUF\3\0\0\0", b"MZqFpD='\n", b"PK\5\6", b"\x7fELF", b"\xff" * 64):
        for length in range(65):
            path.write_bytes((start + bytes(64))[:length])
            assert outcome(path) is None


@fuzzed
@given(
    data=st.binary(max_size=300),
    start=st.sampled_from([b"", b"GGUF\3\0\0\0", b"GGUF\2\0\0\0", b"MZqFpD='\n"]),
)
def test_random_bytes(tmp_path: Path, data: bytes, start: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(start + data)
    outcome(path)


edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from(
                [b"\xff" * 4, b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"PK\5\6", b"PK\1\2"]
            ),
        ),
    ),
    min_size=1,
    max_size=6,
)


def edited(data: bytes, changes: list[tuple[float, bytes]]) -> bytes:
    changed = bytearray(data)
    for place, new in changes:
        at = int(place * len(changed))
        changed[at : at + len(new)] = new
    return bytes(changed)


@fuzzed
@given(changes=edits, keep=st.floats(0.9, 1))
def test_mutated_ggufs(tmp_path: Path, llama: Path, changes: list[tuple[float, bytes]], keep: float) -> None:
    data = llama.read_bytes()[:1_200]  # the header is less than half of it: most changes hit
    path = tmp_path / "x.gguf"
    path.write_bytes(edited(data, changes) + bytes(8_192)[: int(8_192 * keep)])
    outcome(path)


@fuzzed
@given(changes=edits)
def test_mutated_llamafiles(tmp_path: Path, changes: list[tuple[float, bytes]]) -> None:
    data = llamafile_of((LOCAL, RECORD), member("ggml-cuda.so", b"lib", BODY), end=None)
    path = tmp_path / "x"
    path.write_bytes(edited(data, changes))
    outcome(path)


@fuzzed
@given(changes=edits, zip64=st.booleans())
def test_mutated_directories(tmp_path: Path, changes: list[tuple[float, bytes]], zip64: bool) -> None:
    """Only the directory and its end are changed, where nearly every byte matters."""
    records = edited(RECORD, changes[::2])
    end = end_records(0xFFFF if zip64 else 1, len(records), BODY)
    path = tmp_path / "x"
    path.write_bytes(head() + LOCAL + records + edited(end, changes[1::2]))
    outcome(path)


@fuzzed
@given(cut=st.floats(0, 1), extra=st.binary(max_size=40))
def test_truncated_or_extended_llamafiles(tmp_path: Path, llamafile: Path, cut: float, extra: bytes) -> None:
    data = llamafile.read_bytes()
    path = tmp_path / "x"
    path.write_bytes(data[: int(cut * len(data))] + extra)
    if outcome(path) is not None:
        assert int(cut * len(data)) == len(data)


@fuzzed
@given(
    offset=st.integers(0, (1 << 64) - 1),
    size=st.integers(0, (1 << 64) - 1),
    count=st.integers(0, (1 << 64) - 1),
    shift=st.integers(-50, 50),
)
def test_directory_figures_of_any_size(
    tmp_path: Path, offset: int, size: int, count: int, shift: int
) -> None:
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, max(0, BODY + len(RECORD) + shift), 1)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path = tmp_path / "x"
    path.write_bytes(llamafile_of((LOCAL, RECORD), end=end))
    outcome(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(1_000))
    with open_source(path) as source:
        path.write_bytes(bytes(10))
        with pytest.raises(InvalidFileError, match="shorter"):
            source.read_at(500, 100)


@given(
    lengths=st.lists(st.integers(0, 400_000), min_size=1, max_size=6),
    small=st.lists(st.integers(0, 20), max_size=200),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_strings_are_passed_over_exactly(tmp_path: Path, lengths: list[int], small: list[int]) -> None:
    """Strings longer and shorter than the buffer of 256 KiB."""
    every = lengths + small
    path = tmp_path / "x"
    path.write_bytes(b"head" + b"".join(struct.pack("<Q", n) + b"s" * n for n in every) + b"tail")
    with open_source(path) as source:
        cursor = Cursor(source, 4, source.size)
        cursor.skip_strings(len(every))
        assert cursor.take(4) == b"tail"
        assert cursor.remaining == 0
        with pytest.raises(InvalidFileError):
            cursor.take(1)
