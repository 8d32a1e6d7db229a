"""Becoming a process of nobody: a service outlives the script that happened to start it."""

from __future__ import annotations

import os
import select
import sys


def detach() -> None:
    """Go on in a session of our own whose parent is init; the process that was started ends at once.

    A mere child would be noticed by the one who started it: by ``wait`` in its scripts, and as a zombie. Call
    it before there are threads. Does nothing where processes cannot fork.
    """
    if not hasattr(os, "fork"):
        return
    if os.fork():
        os._exit(0)
    os.setsid()


def starter_is_gone() -> bool:
    """Tell whether the one who started us waits no more; it holds the other end of our standard input."""
    return bool(select.select([sys.__stdin__], [], [], 0)[0]) if sys.__stdin__ is not None else True
