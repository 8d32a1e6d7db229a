"""Engines of this system: found on PATH and in the settings, asked with a deadline, remembered by digest."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from llamafile_mgr.config import EnginesConfig
from llamafile_mgr.engines.toolbox import InstalledProgram
from llamafile_mgr.errors import ConfigError
from llamafile_mgr.launching import programs
from llamafile_mgr.launching.programs import find_folders, find_programs
from tests.support.llama_programs import HELP, VERSION

HELP_TEXT = HELP.read_text(encoding="utf-8")


def write_program(path: Path, script: str) -> Path:
    """Write a shell program that notes each of its calls in a file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "$*" >>"$0.calls"\n{script}\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def write_server(path: Path, version: str = VERSION, devices: str = "  (none)", words: str = "") -> Path:
    """Write a program that prints what a server prints; ``words`` must stand in front of its flags."""
    help_file = path.with_suffix(".help")
    path.parent.mkdir(parents=True, exist_ok=True)
    help_file.write_text(HELP_TEXT, encoding="utf-8")
    return write_program(
        path,
        f'case "$*" in\n"{words}--version") printf "{version}" >&2;;\n"{words}--help") cat "{help_file}";;\n'
        f'"{words}--list-devices") printf "Available devices:\\n{devices}\\n";;\n*) exit 1;;\nesac',
    )


def calls(path: Path) -> list[str]:
    """Return how the program was called since this was asked last."""
    log = Path(f"{path}.calls")
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


@pytest.fixture
def search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_one_on_the_path(search_path: Path, tmp_path: Path) -> None:
    path = write_server(search_path / "llama-server")
    [found] = find_programs(EnginesConfig(), tmp_path / "cache").require()
    assert found.command == (str(path),)
    assert (found.version, found.told, found.devices) == ("0.5.0-dev (build 1)", False, ())
    assert found.flags is not None
    assert {"--pooling rank", "-fa on"} <= found.flags
    assert find_programs(EnginesConfig(search_path=False), tmp_path / "cache").require() == ()


def test_the_program_of_all_commands_is_asked_behind_its_word(search_path: Path, tmp_path: Path) -> None:
    path = write_server(search_path / "llama", words="serve ")
    [found] = find_programs(EnginesConfig(), tmp_path / "cache").require()
    assert found.command == (str(path), "serve")
    [told] = find_programs(EnginesConfig((str(path),), search_path=False), tmp_path / "cache").require()
    assert (told.command, told.told) == ((str(path), "serve"), True)


def test_the_named_ones_come_first_and_each_once(search_path: Path, tmp_path: Path) -> None:
    write_server(search_path / "llama-server")
    other = write_server(tmp_path / "other" / "my-build", version=VERSION.replace("build 1,", "build 7,"))
    (tmp_path / "link").symlink_to(search_path / "llama-server")
    settings = EnginesConfig((str(other), "llama-server", str(tmp_path / "link")))
    found = find_programs(settings, tmp_path / "cache").require()
    assert [(each.version, each.told) for each in found] == [
        ("0.5.0-dev (build 7)", True),
        ("0.5.0-dev (build 1)", True),
    ]
    assert find_folders(settings) == (other.parent, search_path, tmp_path)


def test_answers_are_kept_until_the_program_or_its_version_changes(search_path: Path, tmp_path: Path) -> None:
    cache, settings = tmp_path / "cache", EnginesConfig()
    path = write_server(search_path / "llama-server", devices="  CUDA0: GPU (8 MiB, 7 MiB free)")

    def look(*, anew: bool = False) -> tuple[InstalledProgram, list[str]]:
        [found] = find_programs(settings, cache, anew=anew).require()
        return found, calls(path)

    first, asked = look()
    assert asked == ["--version", "--help", "--list-devices"]
    assert look() == (first, ["--version"])
    assert look(anew=True) == (first, asked)
    # Another program in its place, with other devices.
    write_server(path, devices="  Vulkan0: GPU (8 MiB, 7 MiB free)")
    changed, asked = look()
    assert asked == ["--version", "--help", "--list-devices"]
    assert changed.gpu_modules == ("ggml-vulkan",)
    # The same launcher, whose libraries are others.
    path.write_text(path.read_text().replace(f'printf "{VERSION}"', f'cat "{path}.said"'))
    Path(f"{path}.said").write_text(VERSION)
    look()
    Path(f"{path}.said").write_text(VERSION.replace("build 1,", "build 11550,"))
    newer, asked = look()
    assert newer.version == "0.5.0-dev (build 11550)"
    assert "--help" in asked


def test_another_program_of_that_name_is_not_started_for_every_plan(
    search_path: Path, tmp_path: Path
) -> None:
    path, cache = write_program(search_path / "llama", "echo usage: llama stack"), tmp_path / "cache"
    for settings, anew, asked in (
        (EnginesConfig(), False, True),
        (EnginesConfig(), False, False),
        (EnginesConfig(), True, True),
        (EnginesConfig((str(path),), search_path=False), False, True),
        (EnginesConfig(), False, False),
    ):
        [bad] = find_programs(settings, cache, anew=anew).unusable
        assert "usage: llama stack" in bad.cause
        assert bool(calls(path)) is asked


@pytest.mark.parametrize(
    ("script", "cause", "seconds"),
    [
        ("echo usage: llama stack", "usage: llama stack", 86_400),
        ("exec sleep 60", "did not answer --version within 0.5 seconds", 600),
    ],
)
def test_what_is_no_engine_is_asked_again_in_time(
    search_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, cause: str, seconds: int
) -> None:
    monkeypatch.setattr(programs, "_SECONDS", 0.5)
    path, cache, now = write_program(search_path / "llama", script), tmp_path / "cache", time.time()
    for passed, asked in ((0, True), (seconds - 60, False), (seconds + 60, True)):
        monkeypatch.setattr(time, "time", lambda: now + passed)  # noqa: B023 - called within the round
        [bad] = find_programs(EnginesConfig(), cache).unusable
        assert cause in bad.cause
        assert bool(calls(path)) is asked


def test_an_engine_that_is_late_once_is_asked_again(
    search_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = write_server(search_path / "llama-server"), tmp_path / "cache"
    path.write_text(
        path.read_text().replace("#!/bin/sh\n", f'#!/bin/sh\n[ ! -e "{path}.slow" ] || sleep 60\n')
    )
    [good] = find_programs(EnginesConfig(), cache).require()
    monkeypatch.setattr(programs, "_SECONDS", 0.5)
    Path(f"{path}.slow").touch()
    assert find_programs(EnginesConfig(), cache).unusable
    Path(f"{path}.slow").unlink()
    assert find_programs(EnginesConfig(), cache).require() == (good,)


def test_one_of_the_path_is_enough(search_path: Path, tmp_path: Path) -> None:
    write_server(search_path / "llama-server")
    other = write_server(search_path / "llama", words="serve ")
    assert len(find_programs(EnginesConfig(), tmp_path / "cache").require()) == 1
    assert calls(other) == []


def test_a_gpu_that_was_out_of_sight_is_looked_for_again(search_path: Path, tmp_path: Path) -> None:
    path = write_server(search_path / "llama-server")
    find_programs(EnginesConfig(), tmp_path / "cache")
    calls(path)
    find_programs(EnginesConfig(), tmp_path / "cache")
    assert calls(path) == ["--version", "--list-devices"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 1}',
        b'{"version": 1, "files": 3, "programs": []}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_broken_memory_is_made_anew(search_path: Path, tmp_path: Path, content: bytes) -> None:
    path, cache = write_server(search_path / "llama-server"), tmp_path / "cache"
    cache.mkdir()
    (cache / "programs.json").write_bytes(content)
    assert len(find_programs(EnginesConfig(), cache).require()) == 1
    calls(path)
    assert json.loads((cache / "programs.json").read_bytes())["programs"]


@pytest.mark.parametrize(
    "record",
    [
        None,
        3,
        {},
        {"said": VERSION},
        {"said": VERSION, "flags": 1, "devices": [2]},
        {"said": VERSION, "flags": "--port", "devices": {}},
        {"at": "now", "refused": 1},
    ],
)
def test_a_broken_record_is_asked_for_anew(search_path: Path, tmp_path: Path, record: object) -> None:
    path, cache = write_server(search_path / "llama-server"), tmp_path / "cache"
    [good] = find_programs(EnginesConfig(), cache).require()
    file = cache / "programs.json"
    document = json.loads(file.read_bytes())
    file.write_text(json.dumps({**document, "programs": dict.fromkeys(document["programs"], record)}))
    assert find_programs(EnginesConfig(), cache).require() == (good,)
    assert "--help" in calls(path)


def test_a_cache_that_cannot_be_written_costs_time_alone(search_path: Path, tmp_path: Path) -> None:
    write_server(search_path / "llama-server")
    (tmp_path / "cache").write_text("a file")
    assert len(find_programs(EnginesConfig(), tmp_path / "cache").require()) == 1


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("echo a llama eats grass", "for --version it printed 'a llama eats grass'"),
        ("exit 3", "for --version it printed 'nothing'"),
        ("sleep 60", "did not answer --version within 0.5 seconds"),
        ("sleep 60 & echo version", "did not answer"),
        ("setsid sleep 20 & echo version", "did not answer"),
        ("exec >&- 2>&-; sleep 60", "did not answer"),
        ("exec cat /dev/zero", "for --version it printed"),
        ("kill -SEGV $$", "for --version it printed"),
        ('[ "$1" = --version ] && printf "%s" "' + VERSION + '" || sleep 60', "did not answer --help within"),
    ],
)
def test_what_is_no_engine(
    search_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, cause: str
) -> None:
    monkeypatch.setattr(programs, "_SECONDS", 0.5)
    path = write_program(search_path / "llama-server", script)
    began = time.monotonic()
    search = find_programs(EnginesConfig(), tmp_path / "cache")
    assert time.monotonic() - began < 5
    assert search.require() == ()
    [bad] = search.unusable
    assert cause in bad.cause
    with pytest.raises(ConfigError, match="cannot be used as an engine") as raised:
        find_programs(EnginesConfig((str(path),)), tmp_path / "cache").require()
    assert raised.value.cause is not None
    assert cause in raised.value.cause
    assert "llama-server, llama serve" in str(raised.value.hint)


def test_a_pipe_is_no_program(search_path: Path, tmp_path: Path) -> None:
    os.mkfifo(search_path / "llama-server", 0o755)
    [bad] = find_programs(EnginesConfig(), tmp_path / "cache").unusable
    assert bad.cause == "it is no regular file"


def test_what_is_no_program(search_path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    llamafile = tmp_path / "x.llamafile"
    llamafile.write_bytes(b"MZqFpD='\n\0\1\2")
    llamafile.chmod(0o755)
    for name, cause in {
        "/nowhere/llama-server": "no such program",
        "no-such-name": "no such program",
        str(plain): "no such program, or you may not run it",
        str(tmp_path): "no such program",
        str(llamafile): "Exec format error",
    }.items():
        with pytest.raises(ConfigError) as raised:
            find_programs(EnginesConfig((name,)), tmp_path / "cache").require()
        assert cause in str(raised.value.cause)


def test_variables_of_the_program_do_not_change_its_answers(
    search_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_server(search_path / "llama-server")
    path.write_text(path.read_text().replace("case", 'env | grep LLAMA_ >>"$0.calls"\ncase', 1))
    monkeypatch.setenv("LLAMA_ARG_PORT", "not a number")
    find_programs(EnginesConfig(), tmp_path / "cache")
    assert all(line.startswith("--") for line in calls(path))


def test_a_name_of_the_path_is_no_file_of_this_directory(
    search_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    write_server(here / "llama-server")
    monkeypatch.chdir(here)
    for path in (os.environ["PATH"], f".:{os.environ['PATH']}", ":", "../here"):
        monkeypatch.setenv("PATH", path)
        assert find_programs(EnginesConfig(), tmp_path / "cache") == programs.ProgramSearch()
    assert calls(here / "llama-server") == []
    monkeypatch.setenv("PATH", f"{search_path}:/usr/bin:/bin")
    assert shutil.which("llama-server") is None
    assert find_programs(EnginesConfig(), tmp_path / "cache") == programs.ProgramSearch()
    monkeypatch.setenv("HOME", str(tmp_path))
    [found] = find_programs(EnginesConfig(("~/here/llama-server",)), tmp_path / "cache").require()
    assert found.command == (os.path.join(here, "llama-server"),)
