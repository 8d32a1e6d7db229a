"""Run embedding and generation llamafiles on your own hardware and forget about them."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
