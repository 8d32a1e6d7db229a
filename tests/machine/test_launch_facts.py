"""What breaks launches, read from real directories, ports and handler files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from llamafile_mgr.machine.binfmt import BinfmtHandler, parse_handler, read_handlers
from llamafile_mgr.machine.launch import SHELL_TOOLS, PlaceRole, inspect_place, launch_facts, probe_port
from llamafile_mgr.paths import resolve_paths
from tests.machine.machine_captures import capture


def test_this_machine(tmp_path: Path) -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path / "home")})
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "1"}
    facts = launch_facts(paths, port=0, environ=environ)
    assert [place.role for place in facts.places] == list(PlaceRole)
    store = facts.places[0]
    assert (store.path, store.writable) == (str(paths.store), True)
    assert (store.free_bytes or 0) > 0
    assert facts.missing_tools == ()
    assert facts.ports == ()
    assert facts.gpu_variables == (("CUDA_VISIBLE_DEVICES", "1"),)
    assert not (tmp_path / "home").exists()


def test_without_programs_on_path(tmp_path: Path) -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    facts = launch_facts(paths, port=0, environ={"PATH": str(tmp_path)})
    assert facts.missing_tools == SHELL_TOOLS
    assert facts.ape_loader is None
    loader = tmp_path / "ape"
    loader.write_text("#!/bin/sh\n")
    loader.chmod(0o755)
    assert launch_facts(paths, port=0, environ={"PATH": str(tmp_path)}).ape_loader == str(loader)


def test_directories(tmp_path: Path) -> None:
    private, shared, sticky = tmp_path / "private", tmp_path / "shared", tmp_path / "sticky"
    for path, mode in ((private, 0o700), (shared, 0o777), (sticky, 0o1777)):
        path.mkdir()
        path.chmod(mode)
    assert inspect_place(PlaceRole.STORE, private).shared_write is False
    assert inspect_place(PlaceRole.STORE, shared).shared_write is True
    assert inspect_place(PlaceRole.STORE, sticky).shared_write is False
    missing = inspect_place(PlaceRole.STORE, shared / "deeper" / "still")
    assert (missing.writable, missing.shared_write) == (True, None)
    assert inspect_place(PlaceRole.HOME, Path("/proc/1/no/such")).writable is False


def test_ports() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        taken = probe_port("127.0.0.1", port)
        assert taken.free is False
        assert str(os.getpid()) in (taken.owner or "")
    freed = probe_port("127.0.0.1", port)
    assert (freed.free, freed.owner) == (True, None)
    assert probe_port("192.0.2.1", port).free is None  # an address of no machine


@pytest.mark.parametrize(
    ("name", "handler"),
    [
        ("binfmt-wslinterop.txt", BinfmtHandler("x", "/init")),
        ("binfmt-doswin.txt", BinfmtHandler("x", "/usr/bin/wine")),
        ("binfmt-ape.txt", BinfmtHandler("x", "/usr/bin/ape")),
    ],
)
def test_handlers_that_take_llamafiles(name: str, handler: BinfmtHandler) -> None:
    assert parse_handler("x", capture(name)) == handler
    assert handler.ape is (name == "binfmt-ape.txt")
    assert parse_handler("x", capture(name).replace("enabled", "disabled")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "enabled\ninterpreter /usr/bin/python3.11\nflags: \noffset 0\nmagic a70d0d0a\n",
        "enabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n",
        "enabled\ninterpreter /x\noffset 4000\nmagic 4d5a\n",
        "enabled\ninterpreter /x\noffset x\nmagic 4d5a\n",
        "enabled\ninterpreter /x\nmagic zz\n",
        "enabled\ninterpreter /x\noffset 0\nmagic 4d5a\nmask ff\n",
    ],
)
def test_handlers_of_other_files(text: str) -> None:
    assert parse_handler("x", text) is None


def test_a_mask_lets_more_files_through() -> None:
    text = "enabled\ninterpreter /x\nflags: \noffset 0\nmagic 4d00\nmask ff00\n"
    assert parse_handler("x", text) == BinfmtHandler("x", "/x")


def test_the_whole_folder(tmp_path: Path) -> None:
    (tmp_path / "WSLInterop").write_text(capture("binfmt-wslinterop.txt"))
    (tmp_path / "register").write_text("")
    assert read_handlers(tmp_path) == ()
    (tmp_path / "status").write_text("enabled\n")
    assert read_handlers(tmp_path) == (BinfmtHandler("WSLInterop", "/init"),)
    (tmp_path / "status").write_text("disabled\n")
    assert read_handlers(tmp_path) == ()
    assert read_handlers(tmp_path / "none") == ()
