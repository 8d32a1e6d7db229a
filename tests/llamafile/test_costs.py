"""What hostile files may cost: files that claim gigabytes end quickly and in little memory."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from llamafile_mgr.errors import InvalidFileError
from llamafile_mgr.llamafile import inspect_file
from llamafile_mgr.llamafile.byte_source import WorkBudget, open_source
from llamafile_mgr.llamafile.zip_directory import read_directory
from llamafile_mgr.llamafile.zip_records import end_records
from tests.llamafile.llamafile_samples import head, member, pair, raw_gguf, write_runtime


def write_sparse(path: Path, start: bytes, size: int, end: bytes = b"") -> Path:
    with path.open("wb") as out:
        out.write(start)
        out.truncate(size)
        out.seek(size)
        out.write(end)
    return path


def greedy_files(folder: Path) -> list[Path]:
    """Return files that claim as much as their size allows, on a disk that holds next to nothing of them."""
    size = 40 << 30
    preamble = struct.pack("<4sIQQ", b"GGUF", 3, 0, 16_384)
    strings = preamble[:16] + struct.pack("<QQ", 1, 1) + b"x" + struct.pack("<IIQ", 9, 8, 1 << 32)
    return [
        write_sparse(folder / "pairs", preamble, size),
        write_sparse(folder / "pairs-and-tensors", struct.pack("<4sIQQ", b"GGUF", 3, 65_536, 16_384), size),
        write_sparse(folder / "strings", strings, size),
        write_sparse(folder / "head", b"MZqFpD='", size),
        write_sparse(folder / "head-and-end", b"MZqFpD='", size, end_records(1, 30 << 20, size - (30 << 20))),
        write_sparse(folder / "many", b"MZqFpD='", size, end_records(65_536, 30 << 20, size - (30 << 20))),
        write_sparse(folder / "huge-directory", b"MZqFpD='", size, end_records(9, 30 << 30, 0)),
    ]


def test_greedy_files_cost_little_memory(tmp_path: Path) -> None:
    """A process that may grow by 96 MiB only looks at files that claim 40 GiB each."""
    code = (
        "import resource, sys; from pathlib import Path; import llamafile_mgr.llamafile as room\n"
        "from llamafile_mgr.errors import InvalidFileError\n"
        "status = Path('/proc/self/status').read_text()\n"
        "used = int(next(l.split()[1] for l in status.splitlines() if l.startswith('VmSize'))) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20),) * 2)\n"
        "for name in sys.argv[1:]:\n"
        "    try: room.inspect_file(Path(name))\n"
        "    except InvalidFileError as error: print('refused', error.message)\n"
    )
    paths = greedy_files(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("refused") == len(paths)


def test_the_number_of_steps_is_bounded(tmp_path: Path) -> None:
    """All headers of one file share one budget, so many greedy members cost no more than one."""
    count = 50
    many = pair("x", 9, struct.pack("<IQ", 8, 100_000) + bytes(800_000))
    strings = raw_gguf([many])
    path = write_runtime(tmp_path / "x", {f"{i}.gguf": strings for i in range(count)})
    with pytest.raises(InvalidFileError, match="absurdly long"):
        inspect_file(path)
    budget = WorkBudget(10)
    budget.spend(10)
    with pytest.raises(InvalidFileError):
        budget.spend(1)


def test_a_head_that_names_versions_without_end(tmp_path: Path) -> None:
    """Only the first mentions are looked at: the one that stands behind 50,000 others is not."""
    path = write_runtime(tmp_path / "a", start=b"MZqFpD='" + b"llamafile " * 49_000 + b"llamafile v0.8.4\n")
    assert inspect_file(path).engine_version == "0.8.4"
    path = write_runtime(
        tmp_path / "b",
        start=b"MZqFpD='llamafile v0.8.4 " + b"llamafile " * 51_000 + b"llamafile v0.9.9\n" * 3,
    )
    assert inspect_file(path).engine_version == "0.8.4"


def test_too_many_weights(tmp_path: Path) -> None:
    path = write_runtime(tmp_path / "x", {f"{i}.gguf": b"" for i in range(65)})
    with pytest.raises(InvalidFileError, match="65 weights"):
        inspect_file(path)


def test_a_directory_of_65_536_members(tmp_path: Path) -> None:
    path = tmp_path / "x"
    locals_, records = [], []
    at = len(head())
    for i in range(65_536):
        local, record = member(f"f{i}", b"", at)
        at += len(local)
        locals_.append(local)
        records.append(record)
    directory = b"".join(records)
    path.write_bytes(head() + b"".join(locals_) + directory + end_records(65_536, len(directory), at))
    with open_source(path) as source:
        found = read_directory(source)
    assert found is not None
    assert (len(found.members), found.members[-1].name) == (65_536, "f65535")
