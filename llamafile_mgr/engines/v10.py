"""llamafile from 0.10.0, which is llama.cpp's server with flags of its own.

Flags: llamafile 4355126 ``llamafile/args.cpp``.
"""

from __future__ import annotations

from typing import ClassVar

from llamafile_mgr.engines.family import MIB
from llamafile_mgr.engines.known_bad import LLAMAFILE_ROWS, KnownBad, on_windows
from llamafile_mgr.engines.toolbox import GPU_MODULE
from llamafile_mgr.engines.upstream import UpstreamServer

_REFUSED_AFTER_10_6 = frozenset({"--mmap", "--no-mmap", "--mlock", "-dio"})
_REFUSES = "its embedded arguments hold flags that its engine {version} refuses"


class V10(UpstreamServer):
    """Rules of llamafile 0.10 and later."""

    releases = ((0, 10, 0), None)
    #: Later releases carry the libraries of their GPU code, and not its sources.
    member_mark = GPU_MODULE
    runs_other_weights = True
    install_hint = "llamafile-mgr pull llamafile-0.10.5"
    reads_shell_words = True
    #: Engines before it are documented with the bare name.
    weights_prefix = "/zip/"
    flag_notes: ClassVar = {
        "-ngl": "switches off the automatic fit to the GPU's memory: too little of it ends the start",
        "-c": "0 reserves memory for the whole training context, which can be gigabytes",
    }
    base_bytes = 96 * MIB
    #: What it leaves by itself (``--fit-target``).
    gpu_margin = 1024 * MIB
    fits_layers = True
    known_bad = (
        *LLAMAFILE_ROWS,
        KnownBad(
            "flags that went", _REFUSES, lambda c: not UpstreamServer.refused_flags.isdisjoint(c.arguments)
        ),
        KnownBad(
            "memory flags that went",
            _REFUSES,
            lambda c: not _REFUSED_AFTER_10_6.isdisjoint(c.arguments),
            first=(0, 10, 7),
        ),
        KnownBad(
            "drafts by another name",
            "its engine {version} calls drafting with a second model otherwise (llama.cpp 22673)",
            lambda c: "draft" in c.features,
            first=(0, 10, 0),
            last=(0, 10, 1),
        ),
        KnownBad(
            "slow decoding on processors",
            "0.10.6 is many times slower on the processor (llama.cpp issues 27126 and 27084)",
            lambda c: not c.uses_gpu,
            first=(0, 10, 6),
            last=(0, 10, 6),
            slow=True,
        ),
        KnownBad(
            "no GPU on Windows",
            "0.10.0 has no GPU support on Windows",
            lambda c: on_windows(c) and bool(c.machine.gpus),
            first=(0, 10, 0),
            last=(0, 10, 0),
            slow=True,
            no_gpu=True,
        ),
    )
