"""Writing llamafiles: Python's zipfile, unzip and sh are the judges."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from llamafile_mgr.errors import InvalidFileError, NotFoundError, UsageError
from llamafile_mgr.llamafile import Family, FileKind, inspect_file, pack
from llamafile_mgr.llamafile.byte_source import open_source
from llamafile_mgr.llamafile.zip_directory import read_directory
from tests.llamafile.llamafile_samples import (
    head,
    write_bert,
    write_llamafile,
    write_projector,
    write_runtime,
)


def test_what_is_written(tmp_path: Path, runtime: Path, bert: Path) -> None:
    output = tmp_path / "x.llamafile"
    result = pack(runtime, [bert], ["--embedding", "-c", "512"], output)
    assert (result.path, result.size) == (output, output.stat().st_size)
    assert result.members == ("bert.gguf", ".args")
    data = output.read_bytes()
    assert data.startswith(runtime.read_bytes())
    assert stat.S_IMODE(output.stat().st_mode) == 0o500
    facts = inspect_file(output)
    assert (facts.kind, facts.engine_version, facts.family) == (FileKind.LLAMAFILE, "0.8.4", Family.V1)
    (weights,) = facts.weights
    assert weights.offset % 65_536 == 0
    assert data[weights.offset : weights.offset + weights.size] == bert.read_bytes()
    assert facts.arguments is not None
    assert facts.arguments.raw == "-m\nbert.gguf\n--embedding\n-c\n512\n...\n"
    assert facts.arguments.arguments == result.arguments
    assert os.listdir(tmp_path) == ["x.llamafile"]


def test_other_programs_read_it(tmp_path: Path, runtime: Path, bert: Path) -> None:
    output = tmp_path / "x.llamafile"
    pack(runtime, [bert], [], output)
    with zipfile.ZipFile(output) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [".symtab.amd64", "bert.gguf", ".args"]
        assert archive.read("bert.gguf") == bert.read_bytes()
        assert archive.read(".symtab.amd64") == bytes(100)
        assert archive.getinfo("bert.gguf").compress_type == zipfile.ZIP_STORED
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-tqq", str(output)], check=True)
    assert subprocess.run(["sh", str(output)], check=False).returncode == 0


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, runtime: Path, bert: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        pack(runtime, [bert], ["-c", "1"], tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).digest())
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("start", "model"),
    [
        (head("0.8.4"), "bert.gguf"),
        (head("0.9.3"), "bert.gguf"),
        (head("0.10.5"), "/zip/bert.gguf"),
        (head(None, marker=True), "/zip/bert.gguf"),
    ],
)
def test_the_model_is_named_as_the_engine_wants_it(
    tmp_path: Path, bert: Path, start: bytes, model: str
) -> None:
    source = write_runtime(tmp_path / "r", start=start)
    assert pack(source, [bert], ["-c", "1"], tmp_path / "x").arguments == ("-m", model, "-c", "1")
    own = pack(source, [bert], ["--model", "other.gguf"], tmp_path / "y").arguments
    assert own == ("--model", "other.gguf")


def test_arguments_with_spaces_reach_both_syntaxes(tmp_path: Path, bert: Path) -> None:
    words = ["-p", "it's two words", "-e"]
    for version in ("0.8.4", "0.10.5"):
        source = write_runtime(tmp_path / version, start=head(version))
        output = tmp_path / f"{version}.llamafile"
        pack(source, [bert], words, output)
        arguments = inspect_file(output).arguments
        assert arguments is not None
        assert arguments.arguments[2:] == tuple(words)


def test_our_launcher_without_a_zip(tmp_path: Path, bert: Path) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_bytes(head(None, marker=True, script="echo started; exit 3"))
    output = tmp_path / "x.llamafile"
    pack(launcher, [bert], [], output)
    facts = inspect_file(output)
    assert (facts.family, facts.kind) == (Family.EMBEDDED, FileKind.LLAMAFILE)
    done = subprocess.run(["sh", str(output)], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"started\n")


def test_a_projector_goes_along(tmp_path: Path, runtime: Path, bert: Path) -> None:
    projector = write_projector(tmp_path / "mm.gguf")
    result = pack(runtime, [projector, bert], [], tmp_path / "x")
    assert result.arguments == ("-m", "bert.gguf", "--mmproj", "mm.gguf")
    assert [w.offset % 65_536 for w in inspect_file(result.path).weights] == [0, 0]


def test_weights_move_to_a_new_engine(tmp_path: Path, llamafile: Path, bert: Path) -> None:
    runtime = write_runtime(tmp_path / "new", start=head("0.10.5"))
    result = pack(runtime, [llamafile], [], tmp_path / "x")
    facts = inspect_file(result.path)
    assert (facts.engine_version, result.arguments) == ("0.10.5", ("-m", "/zip/bert.gguf"))
    with zipfile.ZipFile(result.path) as archive:
        assert archive.read("bert.gguf") == bert.read_bytes()


def test_an_old_member_of_the_same_name_is_replaced(tmp_path: Path, bert: Path) -> None:
    runtime = write_runtime(tmp_path / "r", {".args": b"-c\n7\n", "ggml-cuda.so": b"lib"})
    output = tmp_path / "x"
    pack(runtime, [bert], ["-c", "8"], output)
    with zipfile.ZipFile(output) as archive:
        assert archive.namelist() == [".symtab.amd64", "ggml-cuda.so", "bert.gguf", ".args"]
        assert archive.read(".args") == b"-m\nbert.gguf\n-c\n8\n...\n"
        assert archive.testzip() is None


def test_a_runtime_whose_zip_was_appended_with_cat(tmp_path: Path, bert: Path) -> None:
    archive_path = tmp_path / "x.zip"
    with zipfile.ZipFile(archive_path, "w") as archive:
        archive.writestr("ggml-cuda.so", b"lib")
    runtime = tmp_path / "r"
    runtime.write_bytes(head() + archive_path.read_bytes())
    output = tmp_path / "x"
    pack(runtime, [bert], [], output)
    with zipfile.ZipFile(output) as archive:
        assert archive.read("ggml-cuda.so") == b"lib"
        assert archive.testzip() is None
    with open_source(output) as source:
        directory = read_directory(source)
    assert directory is not None
    assert directory.shift == 0


def test_packing_upon_a_packed_file_is_refused(tmp_path: Path, llamafile: Path, bert: Path) -> None:
    with pytest.raises(InvalidFileError, match="no bare runtime: it is a llamafile"):
        pack(llamafile, [bert], [], tmp_path / "x")
    with pytest.raises(InvalidFileError, match="no bare runtime: it is a GGUF"):
        pack(bert, [bert], [], tmp_path / "x")


def test_names_can_be_given(tmp_path: Path, runtime: Path, bert: Path) -> None:
    blob = shutil.copy(bert, tmp_path / "0123456789abcdef")
    assert pack(runtime, [Path(blob)], [], tmp_path / "x").members[0] == "0123456789abcdef.gguf"
    assert pack(runtime, [Path(blob)], [], tmp_path / "y", names=["m.gguf"]).members[0] == "m.gguf"


def test_several_weights_of_one_file_keep_their_names(tmp_path: Path, runtime: Path, bert: Path) -> None:
    projector = write_projector(tmp_path / "mm.gguf")
    both = pack(runtime, [bert, projector], [], tmp_path / "x").path
    result = pack(runtime, [both], [], tmp_path / "y", names=["given"])
    assert result.members == ("bert.gguf", "mm.gguf", ".args")


@pytest.mark.parametrize(
    "name", ["../x.gguf", "a/b.gguf", "", ".hidden", "a\nb.gguf", "x" * 300, "\udcff", "a\\b"]
)
def test_names_that_could_do_harm(tmp_path: Path, runtime: Path, bert: Path, name: str) -> None:
    with pytest.raises(UsageError):
        pack(runtime, [bert], [], tmp_path / "x", names=[name])
    assert os.listdir(tmp_path) == []


def test_bad_calls(tmp_path: Path, runtime: Path, bert: Path) -> None:
    with pytest.raises(UsageError, match="no weights"):
        pack(runtime, [], [], tmp_path / "x")
    with pytest.raises(UsageError, match="share a name"):
        pack(runtime, [bert, bert], [], tmp_path / "x")
    with pytest.raises(UsageError, match="1 names for 2"):
        pack(runtime, [bert, bert], [], tmp_path / "x", names=["a"])
    with pytest.raises(InvalidFileError, match="holds no weights"):
        pack(runtime, [runtime], [], tmp_path / "x")
    with pytest.raises(NotFoundError, match="no such file"):
        pack(runtime, [tmp_path / "none.gguf"], [], tmp_path / "x")
    with pytest.raises(NotFoundError, match="no folder"):
        pack(runtime, [bert], [], tmp_path / "no" / "x")
    with pytest.raises(UsageError, match="is a folder"):
        pack(runtime, [bert], [], tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="cannot be embedded"):
        pack(runtime, [bert], ["-p", ""], tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten_unasked(tmp_path: Path, runtime: Path, bert: Path) -> None:
    output = tmp_path / "x"
    output.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        pack(runtime, [bert], [], output)
    assert output.read_text() == "mine"
    pack(runtime, [bert], [], output, overwrite=True)
    assert inspect_file(output).kind is FileKind.LLAMAFILE
    assert os.listdir(tmp_path) == ["x"]


def test_a_dangling_link_is_not_overwritten(tmp_path: Path, runtime: Path, bert: Path) -> None:
    output = tmp_path / "x"
    output.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="exists"):
        pack(runtime, [bert], [], output)
    assert os.listdir(tmp_path) == ["x"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, runtime: Path, bert: Path) -> None:
    output = tmp_path / "x"

    def appear(done: int, total: int) -> None:
        output.write_text("mine")

    with pytest.raises(UsageError, match="exists"):
        pack(runtime, [bert], [], output, progress=appear)
    assert output.read_text() == "mine"
    assert os.listdir(tmp_path) == ["x"]


def test_an_input_is_never_the_output(tmp_path: Path, runtime: Path, bert: Path) -> None:
    mine = Path(shutil.copy(bert, tmp_path / "m.gguf"))
    with pytest.raises(UsageError, match="is an input"):
        pack(runtime, [mine], [], mine, overwrite=True)
    assert mine.read_bytes() == bert.read_bytes()


def test_progress_is_told_to_the_end(tmp_path: Path, runtime: Path, bert: Path) -> None:
    steps: list[tuple[int, int]] = []
    pack(runtime, [bert], [], tmp_path / "x", progress=lambda done, total: steps.append((done, total)))
    total = runtime.stat().st_size + bert.stat().st_size
    assert [done for done, _ in steps] == [runtime.stat().st_size, total]
    assert {of for _, of in steps} == {total}


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, runtime: Path, bert: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(runtime, [bert], [], tmp_path / "x", progress=interrupt)
    assert os.listdir(tmp_path) == []


def test_weights_that_shrink_meanwhile(tmp_path: Path, runtime: Path) -> None:
    weights = write_bert(tmp_path / "w.gguf")

    def shrink(done: int, total: int) -> None:
        os.truncate(weights, 1000)

    with pytest.raises(InvalidFileError, match="changed while"):
        pack(runtime, [weights], [], tmp_path / "x", progress=shrink)
    assert os.listdir(tmp_path) == ["w.gguf"]


def test_a_full_disk(tmp_path: Path, runtime: Path, bert: Path) -> None:
    """A file size limit of the process stands for a disk that is full: writing fails half-way."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from llamafile_mgr.llamafile import pack; from llamafile_mgr.errors import DiskFullError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))\n"
        "try: pack(Path(sys.argv[1]), [Path(sys.argv[2])], [], Path(sys.argv[3]))\n"
        "except DiskFullError as error: print(error.message, '|', error.cause)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(runtime), str(bert), str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "there is no room left for x | File too large" in done.stdout
    assert os.listdir(tmp_path) == []


def test_memory_stays_flat(tmp_path: Path, runtime: Path) -> None:
    """200 MB of weights are packed by a process that may hold 64 MiB more than it starts with."""
    weights = tmp_path / "w.gguf"
    bert = write_bert(tmp_path / "b.gguf").read_bytes()
    weights.write_bytes(bert)
    os.truncate(weights, 200 << 20)
    code = (
        "import resource, sys; from pathlib import Path; import llamafile_mgr.llamafile as room\n"
        "status = Path('/proc/self/status').read_text()\n"
        "used = int(next(l.split()[1] for l in status.splitlines() if l.startswith('VmSize'))) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)\n"
        "print(room.pack(Path(sys.argv[1]), [Path(sys.argv[2])], [], Path(sys.argv[3])).size)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(runtime), str(weights), str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == (tmp_path / "x").stat().st_size > 200 << 20


def test_two_at_once_do_not_disturb_each_other(tmp_path: Path, runtime: Path, bert: Path) -> None:
    outcomes: list[str] = []

    def attempt() -> None:
        try:
            pack(runtime, [bert], [], tmp_path / "x")
            outcomes.append("written")
        except UsageError:
            outcomes.append("exists")

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["exists"] * 5 + ["written"]
    assert os.listdir(tmp_path) == ["x"]
    assert inspect_file(tmp_path / "x").kind is FileKind.LLAMAFILE


def test_a_second_pack_of_an_own_result(tmp_path: Path, runtime: Path, bert: Path) -> None:
    first = write_llamafile(tmp_path / "first", bert, "-c\n1\n")
    second = pack(runtime, [first], [], tmp_path / "second").path
    third = pack(runtime, [second], [], tmp_path / "third").path
    assert second.read_bytes() == third.read_bytes()
