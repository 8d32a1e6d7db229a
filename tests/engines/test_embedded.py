"""The embedded engine as a program: flags, files, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import httpx
import pytest

from llamafile_mgr.engines.embedded import FLAGS, parse_options, resolve_weights
from llamafile_mgr.errors import InvalidFileError, NotFoundError, UsageError
from tests.support.llamafiles import pack_embedded

ENGINE = [sys.executable, "-m", "llamafile_mgr.engines.embedded"]
ROOT = Path(__file__).parent.parent.parent


def start(*arguments: str, argv: list[str] = ENGINE) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMAFILE_MGR_PYTHON": sys.executable}
    return subprocess.Popen([*argv, *arguments], stderr=subprocess.PIPE, text=True, env=env)


def run(*arguments: str) -> tuple[int, str]:
    with start(*arguments) as process:
        _, errors = process.communicate(timeout=30)
        return process.returncode, errors


def await_listening(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if "listening at" in line:
            return line
    raise AssertionError("ended without listening")


def test_flags_become_settings() -> None:
    options = parse_options(
        ["--server", "-m", "x.gguf", "--pooling", "mean", "-c", "1", "-c", "2", "--embedding", "--no-webui"]
    )
    assert options.model == "x.gguf"
    assert options.settings == {"pooling_type": 1, "n_ctx": 2, "embedding": True, "ui": False}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frobnicate"], "invalid argument: --frobnicate"),
        (["-c"], "expected value for argument: -c"),
        (["-c", "many"], "invalid value for argument -c"),
        (["--pooling", "max"], "not one of none, mean, cls, last, rank"),
        (["--api-key-file", "/nonexistent/key"], "invalid value for argument --api-key-file"),
        (["stray"], "invalid argument: stray"),
    ],
)
def test_bad_flags_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_options(arguments)


def test_every_flag_sets_something_that_the_engine_has() -> None:
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    for flag in FLAGS.values():
        target = params
        for part in flag.attribute.split("."):
            assert flag.attribute == "ignored" or hasattr(target, part), flag.attribute
            target = getattr(target, part, None)


def test_an_unknown_flag_ends_the_program() -> None:
    assert run("-m", "x.gguf", "--frobnicate") == (1, "error: invalid argument: --frobnicate\n")


def test_a_missing_model_ends_the_program(tmp_path: Path) -> None:
    code, errors = run("-m", str(tmp_path / "none.gguf"))
    assert code == 1
    assert "there is no file" in errors
    assert run()[0] == 1


def test_a_damaged_model_ends_the_program(minilm: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(minilm.read_bytes()[:100_000])
    code, errors = run("-m", str(cut), "--port", "0")
    assert code == 1
    assert "failed to load model" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal(minilm: Path, number: signal.Signals) -> None:
    with start("-m", str(minilm), "--port", "0", "--embedding", "-lv", "1") as process:
        assert "http://127.0.0.1:" in await_listening(process)
        process.send_signal(number)
        assert process.wait(15) == 0


def test_a_packed_file_runs_through_sh_and_is_refused_by_exec(minilm: Path, tmp_path: Path) -> None:
    packed = pack_embedded(minilm, tmp_path / "m.llamafile", "-c", "512", "--embedding")
    with pytest.raises(OSError, match="Exec format error"):
        subprocess.run([str(packed)], check=False)
    with start("--server", "--port", "0", "-lv", "1", argv=["sh", str(packed)]) as process:
        await_listening(process)
        process.terminate()
        assert process.wait(15) == 0


def test_no_argument_of_a_file_overrules_those_of_its_caller(minilm: Path, tmp_path: Path) -> None:
    packed = pack_embedded(minilm, tmp_path / "m.llamafile")
    ours = ["--host", "127.0.0.1", "--port", "0", "--api-key-file", str(tmp_path / "key"), "-lv", "1"]
    (tmp_path / "key").write_text("a key of ours\n")
    with zipfile.ZipFile(packed, "a") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr(
            ".args", "-m /zip/m --embedding --api-key theirs ... --host 0.0.0.0 --api-key theirs"
        )
    with start("--server", *ours, argv=["sh", str(packed)]) as process:
        listening = await_listening(process)
        url = listening.split()[-1]
        answers = [
            httpx.get(f"{url}/props", headers={"authorization": f"Bearer {key}"}).status_code
            for key in ("a key of ours", "theirs")
        ]
        process.terminate()
        process.wait(15)
    assert "http://127.0.0.1:" in listening
    assert answers == [200, 401]


def test_weights_are_unpacked_once(minilm: Path, tmp_path: Path) -> None:
    packed = pack_embedded(minilm, tmp_path / "m.llamafile")
    first = resolve_weights(str(packed), tmp_path / "cache")
    assert first.read_bytes() == minilm.read_bytes()
    made = first.stat().st_mtime_ns
    assert resolve_weights(str(packed), tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == made
    assert resolve_weights(str(minilm), tmp_path / "cache") == minilm


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InvalidFileError, match="neither a GGUF nor a llamafile"):
        resolve_weights(str(tmp_path / "text"), tmp_path)
    with pytest.raises(NotFoundError):
        resolve_weights(str(tmp_path / "none"), tmp_path)
