"""Encoderfiles: written by the format's own description, told from other files, read, and not run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.cli import run
from llamafile_mgr.errors import InvalidFileError, NotFoundError
from llamafile_mgr.llamafile import inspect_file, read_encoderfile

PROGRAM = b"\x7fELF" + bytes(4092)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    """Return a field as Protocol Buffers write it: a number as a varint, bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def artifact(offset: int, data: bytes) -> bytes:
    fixed = b"".join(varint(n << 3 | 1) + struct.pack("<Q", v) for n, v in ((1, offset), (2, len(data))))
    return fixed + field(3, hashlib.sha256(data).digest())


def manifest(kind: int = 4, name: bytes = b"my-minilm") -> bytes:
    head = field(1, kind) + field(2, name) + field(3, b"1.0.0")
    weights, tokenizer = b"onnx" * 100, b"{}"
    size = len(head + field(100, artifact(0, weights)) + field(130, artifact(0, tokenizer)))
    parts = field(100, artifact(size, weights)) + field(130, artifact(size + len(weights), tokenizer))
    return head + parts


def footer(offset: int, length: int, *, version: int = 1, flags: int = 1) -> bytes:
    return struct.pack("<8sIQQI", b"ENCFILE\0", version, offset, length, flags)


def write_encoderfile(path: Path, meta: bytes | None = None) -> Path:
    meta = manifest() if meta is None else meta
    path.write_bytes(PROGRAM + meta + b"onnx" * 100 + b"{}" + footer(len(PROGRAM), len(meta)))
    return path


def test_it_is_read(tmp_path: Path) -> None:
    path = write_encoderfile(tmp_path / "minilm.encoderfile")
    facts = read_encoderfile(path)
    assert facts is not None
    assert (facts.name, facts.version, facts.model_type) == ("my-minilm", "1.0.0", "sentence embedding")
    assert (facts.format, facts.program_size, facts.vectors) == (1, 4096, "one vector a text")
    data = path.read_bytes()
    kinds = {part.kind: part for part in facts.artifacts}
    assert list(kinds) == ["weights", "tokenizer"]
    for part in facts.artifacts:
        held = data[part.offset : part.offset + part.size]
        assert hashlib.sha256(held).hexdigest() == part.sha256


@pytest.mark.parametrize(
    ("kind", "named", "vectors"),
    [
        (1, "embedding", "one vector a token"),
        (2, "sequence classification", "no vectors"),
        (21, "image classification", "no vectors"),
        (99, "type 99", "no vectors"),
    ],
)
def test_what_its_model_gives(tmp_path: Path, kind: int, named: str, vectors: str) -> None:
    facts = read_encoderfile(write_encoderfile(tmp_path / "x", manifest(kind)))
    assert facts is not None
    assert (facts.model_type, facts.vectors) == (named, vectors)


def test_other_files_are_none(tmp_path: Path) -> None:
    for name, data in {"elf": PROGRAM, "empty": b"", "short": b"ENCFILE\0", "text": b"x" * 5000}.items():
        (tmp_path / name).write_bytes(data)
        assert read_encoderfile(tmp_path / name) is None
    with pytest.raises(NotFoundError):
        read_encoderfile(tmp_path / "nowhere")
    with pytest.raises(InvalidFileError):
        read_encoderfile(tmp_path)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (footer(10**9, 10), "manifest is damaged"),
        (footer(2**64 - 1, 2**64 - 1), "form that is not known"),
        (footer(0, 2**21), "form that is not known"),
        (footer(0, 10, flags=0), "form that is not known"),
        (footer(4096, 5), "manifest is damaged"),
    ],
)
def test_a_damaged_one_is_told(tmp_path: Path, tail: bytes, message: str) -> None:
    path = tmp_path / "bad.encoderfile"
    path.write_bytes(PROGRAM + b"\x12\x7fxyz" + tail)
    for read in (read_encoderfile, inspect_file):
        with pytest.raises(InvalidFileError, match=message):
            read(path)


@given(st.binary(max_size=300))
def test_any_manifest_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, meta: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.encoderfile"
    write_encoderfile(path, meta)
    with contextlib.suppress(InvalidFileError):
        assert read_encoderfile(path) is not None


def test_it_is_refused_with_the_way_to_use_it(tmp_path: Path) -> None:
    path = write_encoderfile(tmp_path / "minilm.encoderfile")
    with pytest.raises(InvalidFileError) as raised:
        inspect_file(path)
    assert "it is an encoderfile (sentence embedding, my-minilm)" in raised.value.message
    assert "ONNX" in str(raised.value.cause)
    assert f"{path} serve --http-hostname 127.0.0.1" in str(raised.value.hint)
    assert "translator" in str(raised.value.hint)


def test_show_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_encoderfile(tmp_path / "minilm.encoderfile", manifest(name=b"name\x1b[31m"))
    assert run(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert "not run by llamafile-mgr" in out
    assert "sentence embedding: one vector a text" in out
    assert "POST /predict" in out
    assert "\x1b" not in out
    assert run(["show", str(path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["kind"], data["model_type"]) == ("encoderfile", "sentence embedding")
    assert [part["kind"] for part in data["artifacts"]] == ["weights", "tokenizer"]


@pytest.mark.parametrize("command", ["serve", "plan", "exec"])
def test_who_would_run_it_says_so(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path / "home"))
    path = write_encoderfile(tmp_path / "minilm.encoderfile")
    arguments = ["--embed", str(path), *(["--", "true"] if command == "exec" else [])]
    assert run([command, *arguments]) == InvalidFileError.exit_code
    assert "it is an encoderfile" in capsys.readouterr().err


def test_doctor_tells_one_that_the_settings_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path / "home"))
    path = write_encoderfile(tmp_path / "minilm.encoderfile")
    monkeypatch.setenv("LLAMAFILE_MGR_SERVE_EMBED", str(path))
    assert run(["doctor", "--port", "0", "--quiet"]) == 10
    out = capsys.readouterr().out
    assert "FAIL  model:" in out
    assert "it is an encoderfile" in out
    assert "POST /predict" in out
