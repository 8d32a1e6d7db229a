"""Llamafiles for tests: real packed files whose engine is the embedded one or the fake one."""

from __future__ import annotations

import shlex
import sys
import zipfile
from pathlib import Path

from llamafile_mgr.engines.families import made_runtimes
from llamafile_mgr.llamafile import pack

__all__ = ["pack_embedded", "pack_fake"]

_FAKE = Path(__file__).parent / "fake_engine.py"


def pack_embedded(weights: Path, output: Path, *arguments: str, name: str | None = None) -> Path:
    """Pack ``weights`` onto the embedded engine."""
    runtime = output.with_suffix(".runtime")
    runtime.write_bytes(made_runtimes()["embedded"])
    pack(runtime, [weights], arguments, output, names=[name or output.stem], overwrite=True)
    return output


def pack_fake(weights: Path, output: Path, *switches: str, version: str = "0.10.5") -> Path:
    """Pack ``weights`` onto the fake engine, which says that it is llamafile ``version``.

    Like a real llamafile it is refused by ``exec`` and run by ``sh``.
    """
    family = "v10" if version.startswith("0.10") else "v1"
    command = shlex.join([sys.executable, str(_FAKE), "--family", family, *switches])
    script = f"MZqFpD='\n'\n# llamafile v{version}\nexec {command} -- \"$@\"\nexit 127\n".encode()
    runtime = output.with_suffix(".runtime")
    runtime.write_bytes(script)
    with zipfile.ZipFile(runtime, "a") as archive:  # real runtimes carry their symbols in a ZIP
        archive.writestr(".symtab.amd64", b"")
    pack(runtime, [weights], (), output, names=[output.stem], overwrite=True)
    return output
