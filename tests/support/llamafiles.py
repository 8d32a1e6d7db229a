"""Llamafiles for tests: real packed files with the embedded engine, a real old one, or the fake one."""

from __future__ import annotations

import shlex
import sys
import zipfile
from pathlib import Path

from llamafile_mgr.engines.families import made_runtimes
from llamafile_mgr.llamafile import pack
from tests.support.engine_builds import CLASSIC, build_engine

__all__ = ["pack_classic", "pack_embedded", "pack_fake"]

_FAKE = Path(__file__).parent / "fake_engine.py"
#: What the classic server itself does not know stays here, and its weights are taken out of the ZIP;
#: every hop is an ``exec``, as in a real llamafile, so that there is one process.
_CLASSIC_HEAD = """\
MZqFpD='
'
# llamafile v{version}
set -f
IFS='
'
set -- $(unzip -p "$0" .args | sed '/^\\.\\.\\.$/d') "$@"
words=$#
while [ "$words" -gt 0 ]; do
    word=$1
    shift
    words=$((words - 1))
    case $word in
    --server | --nobrowser | --unsecure | --nologo) ;;
    --gpu)
        shift
        words=$((words - 1))
        ;;
    -m)
        weights=$1
        shift
        words=$((words - 1))
        if [ ! -e "$weights" ]; then
            member=${{weights#/zip/}}
            weights=${{TMPDIR:-/tmp}}/${{0##*/}}.$member
            [ -e "$weights" ] || {{ unzip -p "$0" "$member" >"$weights.$$" && mv "$weights.$$" "$weights"; }}
        fi
        ;;
    *) set -- "$@" "$word" ;;
    esac
done
exec {server} -m "$weights" "$@"
exit 127
"""


def pack_embedded(weights: Path, output: Path, *arguments: str, name: str | None = None) -> Path:
    """Pack ``weights`` onto the embedded engine."""
    runtime = output.with_suffix(".runtime")
    runtime.write_bytes(made_runtimes()["embedded"])
    pack(runtime, [weights], arguments, output, names=[name or output.stem], overwrite=True)
    return output


def pack_classic(weights: Path, output: Path, *, version: str = "0.8.4") -> Path:
    """Pack ``weights`` onto the real classic server, as a llamafile ``version`` would hold them.

    Unlike a llamafile's it listens before its model is loaded, and prints its address in another way.
    """
    server = shlex.quote(str(build_engine(CLASSIC) / "server"))
    return _pack_script(weights, output, _CLASSIC_HEAD.format(version=version, server=server))


#: Vectors that an engine of MiniLM computes until it is ready: three texts alone, the ten with known vectors
#: among two of the vocabulary, and three in another order.
READY_VECTORS = 18


def pack_fake(weights: Path, output: Path, *switches: str, version: str = "0.10.5") -> Path:
    """Pack ``weights`` onto the fake engine, which says that it is llamafile ``version``.

    Like a real llamafile it is refused by ``exec`` and run by ``sh``.
    """
    family = "v10" if version.startswith("0.10") else "v1"
    command = shlex.join([sys.executable, str(_FAKE), "--family", family, *switches])
    script = f"MZqFpD='\n'\n# llamafile v{version}\nexec {command} -- \"$@\"\nexit 127\n"
    return _pack_script(weights, output, script)


def _pack_script(weights: Path, output: Path, script: str) -> Path:
    runtime = output.with_suffix(".runtime")
    runtime.write_text(script, encoding="utf-8")
    with zipfile.ZipFile(runtime, "a") as archive:  # real runtimes carry their symbols in a ZIP
        archive.writestr(".symtab.amd64", b"")
    pack(runtime, [weights], (), output, names=[output.stem], overwrite=True)
    return output
