"""The whole environment of an engine. What is not listed here (``LLAMA_ARG_*``, tokens) stays out."""

from __future__ import annotations

from collections.abc import Mapping

from llamafile_mgr.llamafile import Family
from llamafile_mgr.machine.vendors import gpu_variables
from llamafile_mgr.planner.subjects import Toolbox

__all__ = ["make_environment"]

#: Variables of ours that an engine may see, beside those of GPUs: where programs are, and the language.
_PASSED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")


def make_environment(
    family: Family, toolbox: Toolbox, environ: Mapping[str, str], shown: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment; ``shown`` are the variables that pick a GPU."""
    environment = {name: environ[name] for name in (*_PASSED, *gpu_variables()) if name in environ}
    environment |= {"HOME": str(toolbox.home), "TMPDIR": str(toolbox.temporary), **shown}
    if family is Family.EMBEDDED:
        environment["LLAMAFILE_MGR_PYTHON"] = str(toolbox.python)
        environment["PYTHONPATH"] = str(toolbox.package_root)
        environment["PYTHONUNBUFFERED"] = "1"
    return environment
