"""What a killed service leaves behind is read with suspicion: whatever it holds, the next start goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llamafile_mgr.supervisor.registry import reap_survivors


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"null",
        b"[]",
        b'{"started": null}',
        b'{"started": "soon", "engines": {}}',
        b'{"started": 1.0, "engines": null}',
        b'{"started": 1.0, "engines": {"m": null}}',
        b'{"started": 1.0, "engines": {"m": [1, 2, 3]}}',
        b'{"started": 1.0, "engines": {"m": ["x", "y"]}}',
        b'{"started": 1.0, "engines": {"m": [0, 1.0]}}',
        b'{"started": 1.0, "engines": {"m": [-1, 1.0]}}',
        b'{"started": 1.0, "engines": {"m": [1e999, 1.0]}}',
        b'{"started": NaN, "engines": {}}',
        b"[" * 100_000,
    ],
)
def test_a_file_of_a_dead_service_that_makes_no_sense_stops_no_start(tmp_path: Path, content: bytes) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    directory = tmp_path / f"serve-{dead.pid}"
    directory.mkdir()
    (directory / "engines.json").write_bytes(content)
    assert reap_survivors(tmp_path) == []
    assert not directory.exists()
