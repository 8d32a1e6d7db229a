"""What engines can be run with here, as values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GPU_MODULE", "InstalledRuntime", "Toolbox"]

#: Names of GPU libraries in an engine's ZIP: those of ggml beside the ones that every engine has.
GPU_MODULE = re.compile(r"(?:.*/)?ggml-(?!base|blas|cpu|rpc)[a-z][^/]*\.(?:so|dll|dylib)")


@dataclass(frozen=True, slots=True)
class InstalledRuntime:
    """A bare llamafile runtime in the store.

    ``version``: its release, None when unknown. ``gpu_modules``: the GPU libraries inside, None when
    nobody looked. ``size``: bytes.
    """

    name: str
    path: Path
    version: str | None
    gpu_modules: tuple[str, ...] | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What this installation can run engines with, and where engines may write.

    ``python``: the interpreter of the embedded engine, None when the extra ``embedded`` is not
    installed. ``package_root``: the folder that holds this package. ``home``, ``temporary``: HOME and
    TMPDIR of the engines. ``shell``: there is a ``sh`` with the programs that the head of a llamafile
    calls. ``ape``: the loader that starts llamafiles without a shell.
    """

    runtimes: tuple[InstalledRuntime, ...]
    python: Path | None
    package_root: Path
    home: Path
    temporary: Path
    shell: bool = True
    ape: Path | None = None
