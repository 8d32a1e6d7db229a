"""The whole environment of an engine. What is not listed here (``LLAMA_ARG_*``, tokens) stays out."""

from __future__ import annotations

from collections.abc import Mapping

from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.toolbox import Toolbox
from llamafile_mgr.machine.vendors import gpu_variables

__all__ = ["make_environment"]

#: Variables of ours that an engine may see, beside those of GPUs: where programs are, and the language.
_PASSED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")


def make_environment(
    family: Family, toolbox: Toolbox, environ: Mapping[str, str], shown: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment; ``shown`` are the variables that pick a GPU."""
    environment = {name: environ[name] for name in (*_PASSED, *gpu_variables()) if name in environ}
    environment |= {"HOME": str(toolbox.home), "TMPDIR": str(toolbox.temporary), **shown}
    return environment | family_rules(family).environment(toolbox)
