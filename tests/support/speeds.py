"""What `scripts/test --fast` leaves out, which is what needs more than Python and its own seconds."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

__all__ = ["LEFT_OUT", "is_left_out", "is_real"]

#: Folders and files below tests/. They start engines, services, browsers or Node, pull a model, need an
#: extra, or wait for clocks.
LEFT_OUT = (
    "benchmarking",
    "browser",
    "bulk/test_job.py",
    "bulk/test_nodes.py",
    "bulk/test_proxies.py",
    "bulk/test_readers.py",
    "bulk/test_remote_files.py",
    "bulk/test_scaling.py",
    "cli/test_embed.py",
    "clients",
    "deploy",
    "embedding/test_real_engine.py",
    "endpoints",
    "engines/test_embedded.py",
    "faults",
    "integration",
    "llamafile/test_conversion.py",
    "proxy/test_attacks.py",
    "proxy/test_connection.py",
    "proxy/test_front.py",
    "service/test_booted.py",
    "service/test_notifying.py",
    "supervisor/test_engine_memory.py",
    "test_pytest_plugin.py",
)
#: Tests of other files that ask for these, directly or not, are left out one by one.
_REAL_FIXTURES = frozenset({"model_home", "tiny_generator"})


def is_left_out(path: Path, tests: Path) -> bool:
    """Tell whether a folder or file below ``tests`` is none of the fast ones."""
    return path.is_relative_to(tests) and path.relative_to(tests).as_posix() in LEFT_OUT


def is_real(fixtures: Collection[str]) -> bool:
    """Tell whether a test with these fixtures needs a real model."""
    return not _REAL_FIXTURES.isdisjoint(fixtures)
