"""Engine logs: rotated by size, last lines kept, readable by their owner alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.errors import StoreError
from llamafile_mgr.supervisor.engine_log import EngineLog


def test_the_file_is_private_and_rotates(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "logs" / "m.log", max_bytes=100)
    for number in range(30):
        log.append(b"line %02d\n" % number)
    log.close()
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    older = log.path.with_name("m.log.1").read_bytes()
    assert len(older) <= 100
    assert (older + log.path.read_bytes()).endswith(b"line 28\nline 29\n")


def test_a_log_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "m.log").mkdir()
    with pytest.raises(StoreError, match="cannot write the log"):
        EngineLog(tmp_path / "m.log").append(b"x")


@given(st.lists(st.binary(max_size=30), max_size=30))
def test_lines_do_not_depend_on_how_output_is_cut(pieces: list[bytes]) -> None:
    cut, whole = EngineLog(Path("unused")), EngineLog(Path("unused"))
    lines = [line for piece in pieces for line in cut.feed(piece)]
    assert lines == whole.feed(b"".join(pieces))
    assert cut.lines == whole.lines


def test_a_line_without_end_takes_no_memory() -> None:
    log = EngineLog(Path("unused"))
    for _ in range(1000):
        log.feed(b"x" * 10_000)
    assert len(log.feed(b"\n")[0]) <= 4096
