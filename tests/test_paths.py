"""Directories: one root on request, private by default."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from llamafile_mgr.errors import StoreError
from llamafile_mgr.paths import ensure_private_dir, foreign_home, resolve_paths


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


HOMELESS = """
import os, sys
from llamafile_mgr.errors import ConfigError
from llamafile_mgr.paths import resolve_paths
resolve_paths({})  # imports what another user may not be able to
os.setgroups([])
os.setgid(4242)
os.setuid(4242)
os.environ.pop("HOME", None)
if sys.argv[1:]:
    os.environ["HOME"] = sys.argv[1]
try:
    print(resolve_paths().store)
except ConfigError as error:
    print(error.message)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("home", [None, "", "relative", "closed", "open"])
def test_a_user_without_a_home_is_told(home: str | None) -> None:
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("XDG_", "LLAMAFILE_"))}
    # Another user must be able to come as far, which pytest's own directories do not allow.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for name, mode in (("closed", 0o700), ("open", 0o755)):
            Path(folder, name).mkdir(mode=mode)
        told = [f"{folder}/{home}"] if home in ("closed", "open") else [home] if home is not None else []
        said = subprocess.run(
            [sys.executable, "-c", HOMELESS, *told], capture_output=True, text=True, check=True, env=environ
        ).stdout.strip()
    if home == "open":
        assert said == f"{folder}/open/.local/share/llamafile-mgr/store"
    elif home == "closed":
        assert said == f"the home directory {folder}/closed belongs to root and is closed to you"
    else:
        assert said.startswith("this user has no home directory")


def test_whose_home_it_is(tmp_path: Path) -> None:
    assert foreign_home({"HOME": str(tmp_path)}) is None
    assert foreign_home({"HOME": str(tmp_path / "none")}) is None
    assert foreign_home({}) is None
    if os.geteuid() == 0:
        os.chown(tmp_path, 4242, 4242)
        assert foreign_home({"HOME": str(tmp_path)}) == (str(tmp_path), "the user 4242")
        assert foreign_home({"HOME": str(tmp_path), "LLAMAFILE_MGR_HOME": "/x"}) is None
