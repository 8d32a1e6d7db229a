"""The commands that the README shows for a running service, as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.service import Service

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
CURLS = re.findall(r"^curl .*$", README, re.M)


def test_the_readme_shows_some() -> None:
    assert len(CURLS) >= 4


@pytest.mark.parametrize("line", CURLS)
def test_curl(service: Service, line: str) -> None:
    argv = shlex.split(line.replace("http://127.0.0.1:8080", service.url))
    result = subprocess.run(
        [*argv, "--silent", "--fail"], capture_output=True, text=True, timeout=30, check=True
    )
    assert isinstance(json.loads(result.stdout), dict)


@pytest.mark.parametrize("name", ["quickstart", "test"])
def test_the_two_commands_are_there(name: str) -> None:
    assert f"./scripts/{name}" in README
    assert (Path(__file__).parent.parent.parent / "scripts" / name).stat().st_mode & 0o111
