"""macOS marks downloaded programs; a file whose digest matched may lose the mark."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["lift_quarantine"]

_ATTRIBUTE = b"com.apple.quarantine"


def lift_quarantine(path: Path) -> None:
    """Remove the quarantine mark of ``path`` on macOS; elsewhere, and where there is none, do nothing."""
    if sys.platform == "darwin":
        library = ctypes.CDLL(None)
        library.removexattr.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
        library.removexattr(os.fsencode(path), _ATTRIBUTE, 0)
