"""What engines can be run with here, as values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.engines.arguments import EmbeddedArguments

#: Names of GPU libraries in an engine's ZIP: those of ggml beside the ones that every engine has.
GPU_MODULE = re.compile(r"(?:.*/)?ggml-(?!base|blas|cpu|rpc)[a-z][^/]*\.(?:so|dll|dylib)")


@dataclass(frozen=True, slots=True)
class InstalledRuntime:
    """A bare llamafile runtime in the store.

    ``version``: its release, None when unknown. ``gpu_modules``: the GPU libraries inside, None when
    nobody looked. ``size``: bytes. ``arguments``: what it puts around ours, None where it brings none.
    """

    name: str
    path: Path
    version: str | None
    gpu_modules: tuple[str, ...] | None = None
    size: int = 0
    arguments: EmbeddedArguments | None = None


@dataclass(frozen=True, slots=True)
class InstalledProgram:
    """An engine that is installed beside this package and is no file in the store.

    ``name``: what it was looked for as. ``command``: the argv in front of the flags. ``version``: as it says
    itself. ``flags``: what its own help lists, in the words of ``LaunchSettings.known_flags``; None when
    nobody asked. ``devices``: lines with the GPUs that it can compute on, each with its name in front.
    ``told``: the user named it, instead of having it on PATH.
    """

    name: str
    command: tuple[str, ...]
    version: str | None = None
    flags: frozenset[str] | None = None
    devices: tuple[str, ...] = ()
    told: bool = False

    @property
    def gpu_modules(self) -> tuple[str, ...]:
        """Return the GPU libraries that its devices tell of, named as llamafiles name theirs."""
        words = (re.match(r"[A-Za-z]+", device) for device in self.devices)
        return tuple(dict.fromkeys(f"ggml-{word[0].lower()}" for word in words if word is not None))


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What this installation can run engines with, and where engines may write.

    ``python``: the interpreter of the embedded engine, None when the extra ``embedded`` is not
    installed. ``package_root``: the folder that holds this package. ``home``, ``temporary``: HOME and
    TMPDIR of the engines. ``shell``: there is a ``sh`` with the programs that the head of a llamafile
    calls. ``ape``: the loader that starts llamafiles without a shell. ``programs``: engines of the system,
    those that the user named first. ``unpacker``: the argv in front of one that cannot read weights inside
    a llamafile.
    """

    runtimes: tuple[InstalledRuntime, ...]
    python: Path | None
    package_root: Path
    home: Path
    temporary: Path
    shell: bool = True
    ape: Path | None = None
    programs: tuple[InstalledProgram, ...] = ()
    unpacker: tuple[str, ...] = ()
