"""Files appear whole or not at all, and what the disk says is told."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from llamafile_mgr.errors import DiskFullError, StoreError
from llamafile_mgr.files import disk_error, replacing, sync_directory, write_atomically


def test_a_file_is_replaced_when_the_block_ends_and_left_alone_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomically(path, b"old", mode=0o640)
    with replacing(path) as stream:
        stream.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(TypeError), replacing(path) as stream:
        stream.writelines([b"half", None])  # type: ignore[list-item]
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "x"
    with replacing(path, overwrite=False) as stream:
        stream.write(b"first")
    with pytest.raises(FileExistsError), replacing(path, overwrite=False) as stream:
        stream.write(b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x"]


def test_a_directory_that_cannot_be_waited_for_is_no_error_a_broken_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = errno.EINVAL

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    sync_directory(tmp_path)
    code = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        sync_directory(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_its_own_error(code: int) -> None:
    assert type(disk_error(OSError(code, "full"), Path("x"))) is DiskFullError
    assert type(disk_error(OSError(errno.EIO, "broken"), Path("x"))) is StoreError
    assert "what has arrived is kept" in disk_error(OSError(code, "full"), Path("x"), name="m").describe()
