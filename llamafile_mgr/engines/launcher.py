"""The embedded engine as a runtime to pack weights onto: an APE-like launcher.

Like a real llamafile it begins as a DOS executable that is also a shell script, so ``exec`` refuses it and
``sh FILE`` runs it. The script starts the embedded engine with the Python that ``LLAMAFILE_MGR_PYTHON``
names, else ``python3``; it holds no path of the machine that made it, so equal weights make equal files.
"""

from __future__ import annotations

__all__ = ["PYTHON_VARIABLE", "embedded_runtime"]

PYTHON_VARIABLE = "LLAMAFILE_MGR_PYTHON"

#: The first eight bytes are those of an Actually Portable Executable; the quote opens a shell string
#: that ends on the line after, so that the shell sees one assignment.
_SCRIPT = f"""\
MZqFpD='
'
# Runtime of llamafile-mgr: the weights follow as a ZIP archive.
exec "${{{PYTHON_VARIABLE}:-python3}}" -m llamafile_mgr.engines.embedded --llamafile "$0" "$@"
exit 127
"""


def embedded_runtime() -> bytes:
    """Return the launcher; the ZIP with the weights is appended to it."""
    return _SCRIPT.encode("ascii")
