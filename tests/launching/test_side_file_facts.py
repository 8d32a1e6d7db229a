"""Files that settings name beside a model, where they are no files to read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engine_settings import LoraConfig
from llamafile_mgr.errors import ConfigError, Error
from llamafile_mgr.launching.side_file_facts import read_side_files
from llamafile_mgr.store import Store


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "folder"])
def test_a_template_that_no_end_can_be_read_of(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    settings = ModelConfig(chat_template=str(tmp_path / name))
    with pytest.raises(ConfigError, match="is no regular file"):
        read_side_files("m", settings, Store(tmp_path / "store"))


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "folder", "../x", "a\0b", "x" * 5000])
@pytest.mark.parametrize("key", ["lora", "mmproj", "draft"])
def test_what_is_no_file_of_weights(key: str, name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    path = str(tmp_path / name)
    wished = {
        "lora": ModelConfig(lora=(LoraConfig(path),)),
        "mmproj": ModelConfig(mmproj=path),
        "draft": ModelConfig(draft=path),
    }
    with pytest.raises(Error):
        read_side_files("m", wished[key], Store(tmp_path / "store"))
