"""Llamafiles and runtimes, read without running them."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from llamafile_mgr.engines.arguments import ArgumentSyntax
from llamafile_mgr.errors import InvalidFileError, NotFoundError
from llamafile_mgr.llamafile import Family, FileKind, inspect_file
from llamafile_mgr.llamafile.zip_records import StoredMember, central_record, end_records, local_header
from tests.llamafile.llamafile_samples import (
    head,
    pair,
    raw_gguf,
    text,
    write_bert,
    write_llamafile,
    write_projector,
    write_runtime,
)


def test_the_samples_start_as_real_ones_do(llamafile: Path) -> None:
    llamafile.chmod(0o700)
    with pytest.raises(OSError, match="Exec format"):
        subprocess.run([str(llamafile)], check=False)
    assert subprocess.run(["sh", str(llamafile)], check=False).returncode == 0


def test_a_llamafile(llamafile: Path, bert: Path) -> None:
    facts = inspect_file(llamafile)
    assert (facts.kind, facts.engine_version, facts.family) == (FileKind.LLAMAFILE, "0.8.4", Family.V1)
    assert (facts.head_size, facts.other_members, facts.gpu_modules) == (len(head()), 1, ())
    (weights,) = facts.weights
    assert (weights.member, weights.size) == ("bert.gguf", bert.stat().st_size)
    assert llamafile.read_bytes()[weights.offset :].startswith(bert.read_bytes())
    assert weights.gguf == inspect_file(bert).weights[0].gguf
    assert facts.model is weights
    assert facts.arguments is not None
    assert facts.arguments.syntax is ArgumentSyntax.LINES
    assert facts.arguments.arguments == ("-m", "bert.gguf", "--host", "0.0.0.0")


def test_a_runtime(runtime: Path) -> None:
    facts = inspect_file(runtime)
    assert (facts.kind, facts.engine_version, facts.family) == (FileKind.RUNTIME, "0.8.4", Family.V1)
    assert (facts.weights, facts.arguments, facts.model) == ((), None, None)


@pytest.mark.parametrize(
    ("start", "members", "version", "family"),
    [
        (head("0.10.5"), {}, "0.10.5", Family.V10),
        (head("0.9.3"), {"ggml-cuda.so": b"x"}, "0.9.3", Family.V1),
        (head(None), {"llamafile/sgemm.cu": b"x", "llama.cpp/ggml-cuda.cu": b"x"}, "0.1.0", Family.V1),
        (head(None).replace(b"v0.1.0", b""), {"llama.cpp/ggml-cuda.cu": b"x"}, None, Family.V1),
        (head(None).replace(b"v0.1.0", b""), {"ggml-vulkan.so": b"x"}, None, Family.V10),
        (head("0.10.5", marker=True), {}, "0.10.5", Family.EMBEDDED),
        (head("0.8.4").replace(b"MZqFpD=''", b"jartsr=''"), {}, "0.8.4", Family.V1),
        (b"\x7fELF" + head("0.10.0"), {}, "0.10.0", Family.V10),  # after --assimilate
        (head("0.10.5") + b"\0llamafiler v0.9.3\0", {}, "0.10.5", Family.V10),
        (b"MZqFpD='" + bytes(4 << 20) + b"llamafile v0.8.12\n", {}, "0.8.12", Family.V1),
    ],
)
def test_which_engine(
    tmp_path: Path, start: bytes, members: dict[str, bytes], version: str | None, family: Family
) -> None:
    facts = inspect_file(write_runtime(tmp_path / "r", members, start=start))
    assert (facts.engine_version, facts.family, facts.kind) == (version, family, FileKind.RUNTIME)


@pytest.mark.parametrize("cut", range(4_190_000, 4_196_000, 61))
def test_the_version_is_found_across_blocks(cut: int) -> None:
    # The scan reads blocks of 4 MiB that overlap; only the scanner is asked, the file is in memory.
    import io

    from llamafile_mgr.llamafile.byte_source import ByteSource
    from llamafile_mgr.llamafile.inspection import _scan_head

    data = bytes(cut) + b"llamafile v0.10.5\n" + bytes(9_000)
    source = ByteSource(io.BytesIO(data), len(data))
    assert _scan_head(source, len(data)).version == "0.10.5"


def test_gpu_libraries_are_named(tmp_path: Path) -> None:
    members = {"ggml-cuda.so": b"x", "ggml-vulkan.dll": b"y", "ggml-notes.txt": b"z"}
    facts = inspect_file(write_runtime(tmp_path / "r", members, start=head("0.10.5")))
    assert facts.gpu_modules == ("ggml-cuda.so", "ggml-vulkan.dll")
    assert facts.other_members == 4


def test_our_own_launcher_needs_no_zip(tmp_path: Path) -> None:
    path = tmp_path / "launcher"
    path.write_bytes(head(None, marker=True))
    facts = inspect_file(path)
    assert (facts.kind, facts.family) == (FileKind.RUNTIME, Family.EMBEDDED)


def test_a_model_and_its_projector(tmp_path: Path, bert: Path) -> None:
    path = write_llamafile(tmp_path / "x", write_projector(tmp_path / "a-mmproj.gguf"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(bert, "Model.GGUF")
    facts = inspect_file(path)
    assert [weights.member for weights in facts.weights] == ["a-mmproj.gguf", "Model.GGUF"]
    assert facts.model is not None
    assert facts.model.member == "Model.GGUF"


def test_arguments_may_be_deflated(tmp_path: Path, bert: Path) -> None:
    path = write_llamafile(tmp_path / "x", bert)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(".args", "-c\n512\n" * 100)
    arguments = inspect_file(path).arguments
    assert arguments is not None
    assert arguments.arguments == ("-c", "512") * 100


def test_a_zip_that_was_appended_with_cat(tmp_path: Path, bert: Path) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.write(bert, "bert.gguf")
    path = tmp_path / "x.llamafile"
    path.write_bytes(head() + archive.read_bytes())
    facts = inspect_file(path)
    assert facts.head_size == len(head())
    assert facts.weights[0].gguf.name == "tiny bert"


def test_offsets_beyond_4_gib(tmp_path: Path, bert: Path) -> None:
    path = tmp_path / "large.llamafile"
    data = bert.read_bytes()
    offset = 5 << 30
    member = StoredMember("bert.gguf", len(data), offset)
    with path.open("wb") as out:  # sparse: a few pages on the disk
        out.write(head())
        out.seek(offset)
        out.write(local_header(member) + data)
        start = out.tell()
        record = central_record(member)
        out.write(record + end_records(1, len(record), start))
    facts = inspect_file(path)
    assert facts.weights[0].gguf.name == "tiny bert"
    assert facts.weights[0].offset == offset + len(local_header(member))
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("bert.gguf").header_offset == offset


def test_weights_beyond_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "large.llamafile"
    elements = 3 << 30
    tensor = text("t") + struct.pack("<IQIQ", 1, elements, 1, 0)
    header = raw_gguf([pair("general.name", 8, text("big"))], [tensor])
    size = len(header) + 31 & ~31
    member = StoredMember("big.gguf", size + 2 * elements, len(head()))
    with path.open("wb") as out:
        out.write(head() + local_header(member) + header)
        out.seek(member.offset + len(local_header(member)) + member.size)
        start = out.tell()
        record = central_record(member)
        out.write(record + end_records(1, len(record), start))
    (weights,) = inspect_file(path).weights
    assert (weights.size, weights.gguf.parameters, weights.gguf.name) == (member.size, elements, "big")
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("big.gguf").file_size == member.size


def test_there_is_no_such_file(tmp_path: Path, bert: Path) -> None:
    for path in (tmp_path / "none", bert / "inside", tmp_path / "no" / "folder"):
        with pytest.raises(NotFoundError, match="no such file"):
            inspect_file(path)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/zero")):
        with pytest.raises(InvalidFileError, match="regular"):
            inspect_file(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"GG", "only 2 bytes"),
        (b"hello", "only 5 bytes"),
        (b"\n <!DOCTYPE html><html>" + bytes(100), "web page"),
        (b"<HTML>" + bytes(100), "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"tjgg" + bytes(100), "older than GGUF"),
        (b"x" * 1000, "neither"),
        (b"#!/bin/sh\nexit 0\n" + b"#" * 100, "neither"),
        (head(), "truncated, or no llamafile"),
        (head(None, marker=True) + b"PK\x03\x04", "truncated, or no llamafile"),
    ],
)
def test_what_is_something_else(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(InvalidFileError, match=message) as caught:
        inspect_file(path)
    assert str(path) in caught.value.message


def test_a_plain_zip(tmp_path: Path, bert: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(bert, "bert.gguf")
    with pytest.raises(InvalidFileError, match="without an engine"):
        inspect_file(path)


def test_some_other_ape_program(tmp_path: Path) -> None:
    path = write_runtime(tmp_path / "python.com", {"lib/os.py": b"x"}, start=b"MZqFpD='\n" + bytes(100))
    with pytest.raises(InvalidFileError, match="neither weights nor a known engine"):
        inspect_file(path)


def test_an_engine_that_nothing_tells_is_unknown(tmp_path: Path, bert: Path) -> None:
    path = write_llamafile(tmp_path / "x", bert, "-c\n1\n", start=b"MZqFpD='\n" + bytes(100))
    facts = inspect_file(path)
    assert (facts.kind, facts.engine_version, facts.family) == (FileKind.LLAMAFILE, None, None)
    assert facts.arguments is not None
    assert facts.arguments.syntax is None


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_a_truncated_llamafile(tmp_path: Path, llamafile: Path, kept: float) -> None:
    data = llamafile.read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InvalidFileError, match="truncated"):
        inspect_file(path)


def test_compressed_weights(tmp_path: Path, bert: Path) -> None:
    path = write_runtime(tmp_path / "x")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.write(bert, "bert.gguf")
    with pytest.raises(InvalidFileError, match="compressed"):
        inspect_file(path)


def test_weights_that_are_none(tmp_path: Path) -> None:
    path = write_runtime(tmp_path / "x", {"a.gguf": b"nothing of the kind, and long enough"})
    with pytest.raises(InvalidFileError, match=r"a\.gguf in it: it is no GGUF"):
        inspect_file(path)


def test_a_file_that_cannot_be_read(tmp_path: Path, bert: Path) -> None:
    path = shutil.copy(bert, tmp_path / "x.gguf")
    os.chmod(path, 0)
    if os.access(path, os.R_OK):  # root reads everything
        assert inspect_file(Path(path)).kind is FileKind.WEIGHTS
    else:
        with pytest.raises(InvalidFileError, match="cannot be opened"):
            inspect_file(Path(path))


def test_a_path_that_is_no_path() -> None:
    with pytest.raises(InvalidFileError):
        inspect_file(Path("nul\0byte"))


def test_facts_do_not_depend_on_who_writes_the_gguf_last(tmp_path: Path) -> None:
    assert inspect_file(write_bert(tmp_path / "a.gguf", add_eos=False)).weights[0].gguf.add_eos is False
