"""The map of an unfinished download: whatever a crash leaves of it, it never claims too much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.store import Part, PartInfo, part_key, peek
from llamafile_mgr.store.parts import parse_map

INFO = PartInfo("model", "hf:a/b/c", size=100, sha256=None, validator='"v1"')


def make(directory: Path) -> Part:
    return Part(directory / part_key(INFO), INFO)


def test_written_ranges_are_there_after_a_kill(tmp_path: Path) -> None:
    part = make(tmp_path)
    assert part.write(10, [b"abc", b"de"]) == 5
    assert part.write(12, [b"cdefg"]) == 2
    # No close, no checkpoint: as a killed process leaves it.
    again = make(tmp_path)
    assert again.missing(100) == [(0, 10), (17, 100)]
    assert again.data.read_bytes()[10:17] == b"abcdefg"
    assert peek(again.directory) == (INFO, 7)
    again.close()
    part.close()


def test_after_another_boot_only_what_was_synced_counts(tmp_path: Path) -> None:
    part = make(tmp_path)
    part.write(0, [b"x" * 20])
    part.checkpoint()
    part.write(20, [b"x" * 20])
    text = (part.directory / "map").read_text()
    part.close()
    assert parse_map(text, json.loads(text.split("\n")[0])["boot"])[1].total == 40
    assert parse_map(text, "another")[1].total == 20
    assert parse_map(text, None)[1].total == 20


LINES = st.one_of(
    st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda p: f"w {min(p)} {max(p)}"),
    st.integers(0, 9).map(lambda n: f"d {n}"),
    st.text(max_size=8).filter(lambda text: "\n" not in text),
)


@given(st.lists(LINES), st.integers(0, 400), st.booleans())
def test_a_map_cut_anywhere_claims_only_what_its_lines_say(
    lines: list[str], cut: int, same_boot: bool
) -> None:
    head = json.dumps({"name": "m", "source": "s", "boot": "b"}) + "\n"
    text = head + "\n".join([*lines, ""])
    info, done = parse_map(text[: max(len(head), len(text) - cut)], "b" if same_boot else "c")
    assert info.name == "m"
    claimed = {
        byte
        for line in lines
        if line.startswith("w ") and len(line.split(" ")) == 3 and line[2:].replace(" ", "").isdecimal()
        for byte in range(int(line.split(" ")[1]), int(line.split(" ")[2]))
    }
    assert {byte for start, end in done for byte in range(start, end)} <= claimed


@pytest.mark.parametrize("text", ["", "x", "[]\n", "3\n", '{"unknown": 1}\n', "\x00\n"])
def test_a_map_without_a_header_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_map(text, "b")


def test_the_data_is_shorter_than_its_map(tmp_path: Path) -> None:
    part = make(tmp_path)
    part.write(0, [b"x" * 50])
    part.close()
    with part.data.open("r+b") as stream:
        stream.truncate(30)
    again = make(tmp_path)
    assert again.have == 30
    again.close()


def test_a_bad_mark_survives_and_a_new_start_drops_it(tmp_path: Path) -> None:
    part = make(tmp_path)
    part.write(0, [b"x" * 100])
    part.mark_bad("wrong")
    part.close()
    again = make(tmp_path)
    assert (again.info.bad, again.have) == ("wrong", 100)
    again.rebind(INFO, keep=False)
    assert (again.info.bad, again.have) == (None, 0)
    again.close()


def test_parts_of_one_digest_are_one_part() -> None:
    digest = "a" * 64
    assert (
        part_key(PartInfo("x", "s", sha256=digest)) == part_key(PartInfo("y", "t", sha256=digest)) == digest
    )
    assert part_key(PartInfo("x", "s", 1, None, "v1")) != part_key(PartInfo("x", "s", 1, None, "v2"))
