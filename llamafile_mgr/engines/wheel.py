"""The embedded engine, llama.cpp's server from the ``xllamacpp`` wheel: ``llamafile_mgr.engines.embedded``.

As a runtime to pack weights onto it is an APE-like launcher: like a real llamafile it begins as a DOS
executable that is also a shell script, so ``exec`` refuses it and ``sh FILE`` runs it. The script starts the
engine with the Python that ``LLAMAFILE_MGR_PYTHON`` names, else ``python3``; it holds no path of the machine
that made it, so equal weights make equal files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from llamafile_mgr.engines.engine_args import ExtraFlag
from llamafile_mgr.engines.family import MIB
from llamafile_mgr.engines.known_bad import SEVERAL_MODELS
from llamafile_mgr.engines.toolbox import InstalledProgram, Toolbox
from llamafile_mgr.engines.upstream import UpstreamServer, repacked_on
from llamafile_mgr.machine.hardware import Cpu

#: The wheel is built for AVX2, which it uses less well than a native build, but for Q8_0. Measured with
#: all-MiniLM: F16 takes 1.3 times as long on a processor with AVX-512, 1.7 times on one with AVX2 alone.
_X86_SPEEDS = {"Q8_0": 1.0, "F32": 0.7, "F16": 0.67}
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
    ours_last = True
    weights_prefix = "/zip/"
    flag_notes: ClassVar = {}
    base_bytes = 44 * MIB
    #: Vectors that it holds as JSON, at most.
    request_bytes = 28 * MIB
    reserves_logits = False
    uses_gpus = False
    flash_attention_on_cpu = True
    picks_port = True

    def repacked_types(self, cpu: Cpu) -> frozenset[str]:
        """Return the types of tensors of which it keeps a copy; the wheel reports REPACK, and no AMX."""
        return repacked_on(cpu)

    def installed_programs(self, toolbox: Toolbox) -> tuple[InstalledProgram, ...]:
        """Return the interpreter with the wheel and the program's name."""
        command = (str(toolbox.python), "-m", _PROGRAM)
        return () if toolbox.python is None else (InstalledProgram("the embedded engine", command),)

    @property
    def extra_flags(self) -> Mapping[str, ExtraFlag]:
        """Return what ``engine_args`` may hold: of llama.cpp's flags, those that the program reads."""
        from llamafile_mgr.engines.embedded import FLAGS

        return {name: flag for name, flag in super().extra_flags.items() if name in FLAGS}

    def type_speed(self, quantisation: str, cpu: Cpu) -> float | None:
        """Return what was measured on x86-64."""
        return _X86_SPEEDS.get(quantisation) if "avx2" in (cpu.features or ()) else None

    def environment(self, toolbox: Toolbox) -> dict[str, str]:
        """Return what the launcher and the interpreter need to find this package."""
        return {
            _PYTHON: str(toolbox.python),
            "PYTHONPATH": str(toolbox.package_root),
            "PYTHONUNBUFFERED": "1",
        }
