"""Directories: one root on request, private by default."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from llamafile_mgr.errors import StoreError
from llamafile_mgr.paths import ensure_private_dir, resolve_paths


def test_home_moves_everything(tmp_path: Path) -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    places = (paths.config_file, paths.store, paths.state, paths.cache, paths.runtime, paths.logs)
    assert all(tmp_path in place.parents for place in places)


def test_without_home_each_purpose_has_its_own_directory() -> None:
    paths = resolve_paths({})
    assert len({paths.config_file.parent, paths.store, paths.state, paths.cache, paths.runtime}) == 5
    assert "llamafile-mgr" in str(paths.store)


def test_a_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    made = ensure_private_dir(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_an_open_directory_is_narrowed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    assert stat.S_IMODE(ensure_private_dir(tmp_path / "open").stat().st_mode) == 0o700


def test_a_file_in_the_way_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot use the directory"):
        ensure_private_dir(tmp_path / "file" / "below")
