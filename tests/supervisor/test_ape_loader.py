"""What keeps a llamafile's own program from running is found, and removed where it is ours."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llamafile_mgr.changes import Changes
from llamafile_mgr.supervisor import ape_loader
from llamafile_mgr.supervisor.ape_loader import clear_way
from llamafile_mgr.supervisor.engine import Engine
from llamafile_mgr.supervisor.states import EngineState
from tests.support.lives import Checks, fake_plan, surroundings


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o700)
    return path


@pytest.mark.parametrize("damaged", [b"", b"\0\0\0\0\0\0\0\0", b"#!/bin/sh\n"])
def test_a_loader_that_cannot_work_is_removed(tmp_path: Path, damaged: bytes) -> None:
    loader = write(tmp_path / ".ape-1.10", damaged)
    found = clear_way(("sh", "/f"), {"TMPDIR": str(tmp_path), "HOME": "/nowhere"})
    assert found is not None
    assert f"empty or damaged, as a power cut leaves it ({loader})" in found.cause
    assert "was removed" in found.cause
    assert not found.permanent
    assert not loader.exists()


def test_others_are_left_alone(tmp_path: Path) -> None:
    kept = [
        write(tmp_path / ".ape-1.9", b"\x7fELF\2\1\1"),
        write(tmp_path / ".ape-1.10.4711", b""),  # one that is being unpacked
        write(tmp_path / ".ape-notes", b""),
    ]
    assert clear_way(("sh", str(tmp_path / "f")), {"TMPDIR": str(tmp_path)}) is None
    assert all(path.exists() for path in kept)


def test_without_a_tmpdir_the_loader_lies_at_home(tmp_path: Path) -> None:
    loader = write(tmp_path / ".ape-1.10", b"")
    assert clear_way(("sh", "/f"), {"HOME": str(tmp_path)}) is not None
    assert not loader.exists()


def test_a_mount_with_noexec_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What mounts there are is up to the machine.
    monkeypatch.setattr(ape_loader, "may_execute", lambda path: path != Path("/usb"))
    for program, tmpdir in [(("sh", "/f"), "/usb"), (("sh", "/usb/f"), str(tmp_path))]:
        found = clear_way(program, {"TMPDIR": tmpdir})
        assert found is not None
        assert "/usb is on a mount with noexec" in found.cause
        assert "LLAMAFILE_MGR_HOME" in str(found.hint)
        assert found.permanent


@pytest.mark.skipif(sys.platform != "linux", reason="its package is for Linux")
async def test_an_empty_loader_is_told_and_mended_before_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import cosmo_file

    ape = Path(cosmo_file.__file__).parent / "data" / "pledge"
    assert ape.read_bytes().startswith(b"MZqFpD='")
    loader = write(tmp_path / ".ape-1.10", b"")
    around, changes = surroundings(tmp_path / "home"), Changes()
    plan = replace(
        fake_plan(),
        program=("sh", str(ape)),
        environment={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
    )
    engine = Engine("m", plan, Checks(), replace(around, changed=changes.announce))
    with caplog.at_level(logging.WARNING):
        living = asyncio.create_task(engine.run())
        assert await changes.wait_for(lambda: engine.state is EngineState.FAILED, 20.0)
        engine.request_stop(0.0)
        await living
    deaths = [record.getMessage() for record in caplog.records if "died" in record.getMessage()]
    assert "the loader that llamafiles unpack was empty" in deaths[0]
    # It is no engine, and says so: its program runs.
    assert all("loader" not in death for death in deaths[1:])
    assert len(deaths) > 1
    assert loader.read_bytes()[:4] == b"\x7fELF"
