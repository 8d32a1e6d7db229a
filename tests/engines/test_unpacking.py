"""The program that unpacks weights for engines which read bare GGUF files, and becomes the engine."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

WEIGHTS = b"GGUF" + bytes(1000)


def start(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llamafile_mgr.engines.unpacking", *arguments]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False, timeout=30)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "an engine"
    path.write_text(
        '#!/bin/sh\nhead -c4 "$3"; for word in "$@"; do echo "[$word]"; done; echo $PPID; exit 7\n'
    )
    path.chmod(0o755)
    return path


def test_it_becomes_the_engine_with_the_unpacked_weights(tmp_path: Path, engine: Path) -> None:
    packed = tmp_path / "a file.llamafile"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("w.gguf", WEIGHTS)
    done = start(tmp_path, str(engine), "--x", "-m", str(packed), "-c", "0 1")
    assert done.returncode == 7, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "GGUF[--x]"
    assert lines[3:5] == ["[-c]", "[0 1]"]
    assert Path(lines[2][1:-1]).read_bytes() == WEIGHTS
    assert lines[-1] == str(os.getpid())  # its parent is ours: nothing stands between


def test_bare_weights_are_given_as_they_are(tmp_path: Path, engine: Path) -> None:
    bare = tmp_path / "w.gguf"
    bare.write_bytes(WEIGHTS)
    assert f"[{bare}]" in start(tmp_path, str(engine), "-v", "-m", str(bare)).stdout


def test_what_cannot_be_is_said(tmp_path: Path, engine: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(WEIGHTS)
    for arguments, code, said in (
        ((), 1, "there is no -m FILE"),
        ((str(engine), "-m"), 1, "there is no -m FILE"),
        ((str(engine), "-m", str(tmp_path / "nowhere")), 1, "there is no file"),
        ((str(engine), "-m", str(engine)), 1, "neither a GGUF nor a llamafile"),
        ((str(tmp_path / "gone"), "-m", str(plain)), 127, "No such file"),
        ((str(plain), "-m", str(plain)), 126, "Permission denied"),
    ):
        done = start(tmp_path, *arguments)
        assert done.returncode == code
        assert said in done.stderr
        assert "Traceback" not in done.stderr
