"""What the building of real engines says when it cannot be done, and that it is done once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support.engine_builds import CLASSIC, EngineBuildError, build_engine, find_engine


def test_missing_tools_are_named_with_the_command_that_brings_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_ENGINES_FOLDER", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        EngineBuildError, match=r"cmake, c\+\+, make not found.*apt-get install cmake g\+\+ make"
    ):
        build_engine(CLASSIC)
    assert find_engine(CLASSIC) is None


def test_what_is_there_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENGINES_FOLDER", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    CLASSIC.folder.mkdir()
    assert build_engine(CLASSIC) == find_engine(CLASSIC) == CLASSIC.folder
    changed = dataclasses.replace(CLASSIC, options={**CLASSIC.options, "LLAMA_CCACHE": "ON"})
    assert find_engine(changed) is None
