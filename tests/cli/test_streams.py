"""Output that cannot be written: readers that leave, full disks, closed descriptors, narrow encodings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.service import environment, program

FULL = Path("/dev/full")


def run_into(home: Path, stdout: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with this descriptor as its standard output."""
    return subprocess.run(
        program(*arguments),
        env=environment(home),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [("--help",), ("list",), ("recommend", "--json"), ("completion", "bash")]
)
def test_a_reader_that_leaves_ends_the_command_without_a_word(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = run_into(tmp_path, writing, *arguments)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("recommend",)])
def test_a_full_disk_is_named(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with FULL.open("wb") as full:
        result = run_into(tmp_path, full.fileno(), *arguments)
    assert result.returncode == 9
    assert result.stderr.startswith("error: cannot write: No space left on device\n")
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="descriptors are closed otherwise elsewhere")
@pytest.mark.parametrize("arguments", [("--version",), ("list",), ("recommend",), ("doctor", "--port", "0")])
def test_a_closed_output_is_no_fault(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    argv = ["sh", "-c", 'exec "$@" >&-', "sh", *program(*arguments)]
    result = subprocess.run(
        argv, env=environment(tmp_path), stderr=subprocess.PIPE, text=True, timeout=50, check=False
    )
    assert result.returncode in (0, 10)  # what doctor finds is of this machine
    assert result.stderr == ""


def test_an_encoding_without_a_character_shows_its_escape(tmp_path: Path) -> None:
    extra = {"PYTHONIOENCODING": "latin-1"}
    arguments = ("pull", "--dry-run", "hf:org/日本/é.gguf")
    shown = subprocess.run(
        program(*arguments), env=environment(tmp_path, extra), capture_output=True, timeout=50, check=True
    )
    assert rb"hf:org/\u65e5\u672c/" + "é.gguf".encode("latin-1") in shown.stdout
    shown = subprocess.run(
        program(*arguments, "--json"),
        env=environment(tmp_path, extra),
        capture_output=True,
        timeout=50,
        check=True,
    )
    assert json.loads(shown.stdout.decode("ascii"))[0]["source"] == "hf:org/日本/é.gguf"


@pytest.mark.skipif(os.name != "posix", reason="file names are Unicode elsewhere")
def test_json_is_text_whatever_a_file_is_called(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"mod\xe9l.gguf")
    file.write_bytes(b"x")
    shown = subprocess.run(
        program("pull", "--dry-run", "--json", str(file)),
        env=environment(tmp_path),
        capture_output=True,
        timeout=50,
        check=True,
    )
    assert json.loads(shown.stdout.decode("utf-8"))[0]["name"] == file.name


def test_ctrl_c_while_modules_load_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    env = environment(tmp_path)
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    result = subprocess.run(program("list"), env=env, capture_output=True, text=True, timeout=50, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_ended_leaves_nothing_half_done(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    source = tmp_path / "model.gguf"
    with source.open("wb") as stream:
        stream.write(b"GGUF")
        stream.truncate(1 << 30)
    temporary = tmp_path / "store" / "temporary"
    argv = program("import", str(source), "--name", "mine")
    with subprocess.Popen(argv, env=environment(tmp_path), stderr=subprocess.DEVNULL) as command:
        while not (temporary.is_dir() and list(temporary.iterdir())):
            assert command.poll() is None
            time.sleep(0.005)
        command.send_signal(number)
        assert command.wait(20) == code
    assert not list(temporary.iterdir())
