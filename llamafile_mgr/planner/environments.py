"""The whole environment of an engine. What is not listed here (``LLAMA_ARG_*``, tokens) stays out."""

from __future__ import annotations

from collections.abc import Mapping

from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.toolbox import Toolbox

__all__ = ["make_environment"]

#: Variables of ours that an engine may see: where programs and GPUs are, and the language.
_PASSED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "LD_LIBRARY_PATH",
    "SYSTEMROOT",
)


def make_environment(
    family: Family, toolbox: Toolbox, environ: Mapping[str, str], shown: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment; ``shown`` are the variables that pick a GPU."""
    environment = {name: environ[name] for name in _PASSED if name in environ}
    environment |= {"HOME": str(toolbox.home), "TMPDIR": str(toolbox.temporary), **shown}
    return environment | family_rules(family).environment(toolbox)
