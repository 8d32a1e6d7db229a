"""The embedded engine, llama.cpp's server from the ``xllamacpp`` wheel: ``llamafile_mgr.engines.embedded``.

As a runtime to pack weights onto it is an APE-like launcher: like a real llamafile it begins as a DOS
executable that is also a shell script, so ``exec`` refuses it and ``sh FILE`` runs it. The script starts the
engine with the Python that ``LLAMAFILE_MGR_PYTHON`` names, else ``python3``; it holds no path of the machine
that made it, so equal weights make equal files.
"""

from __future__ import annotations

from typing import ClassVar

from llamafile_mgr.engines.family import MIB
from llamafile_mgr.engines.known_bad import SEVERAL_MODELS
from llamafile_mgr.engines.toolbox import InstalledProgram, Toolbox
from llamafile_mgr.engines.upstream import UpstreamServer

__all__ = ["Embedded"]

_PROGRAM = "llamafile_mgr.engines.embedded"
_PYTHON = "LLAMAFILE_MGR_PYTHON"
#: The first eight bytes are those of an Actually Portable Executable; the quote opens a shell string
#: that ends on the line after, so that the shell sees one assignment.
_LAUNCHER = f"""\
MZqFpD='
'
# Runtime of llamafile-mgr: the weights follow as a ZIP archive.
exec "${{{_PYTHON}:-python3}}" -m {_PROGRAM} --llamafile "$0" "$@"
exit 127
"""


class Embedded(UpstreamServer):
    """Rules of the embedded engine."""

    head_mark = _PROGRAM.encode("ascii")
    is_in_file = False
    install_hint = "pip install 'llamafile-mgr[embedded]'"
    made_runtime = _LAUNCHER.encode("ascii")
    known_bad = (SEVERAL_MODELS,)
    reads_shell_words = True
    weights_prefix = "/zip/"
    flag_notes: ClassVar = {}
    base_bytes = 56 * MIB
    #: Vectors that it holds as JSON, at most.
    request_bytes = 32 * MIB
    uses_gpus = False
    flash_attention_on_cpu = True
    picks_port = True

    def installed_programs(self, toolbox: Toolbox) -> tuple[InstalledProgram, ...]:
        """Return the interpreter with the wheel and the program's name."""
        command = (str(toolbox.python), "-m", _PROGRAM)
        return () if toolbox.python is None else (InstalledProgram("the embedded engine", command),)

    def environment(self, toolbox: Toolbox) -> dict[str, str]:
        """Return what the launcher and the interpreter need to find this package."""
        return {
            _PYTHON: str(toolbox.python),
            "PYTHONPATH": str(toolbox.package_root),
            "PYTHONUNBUFFERED": "1",
        }
