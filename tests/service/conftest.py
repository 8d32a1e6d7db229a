"""A real systemd where the machine allows one; the run says whether it did."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.booted import why_not

#: The reason why the tests of ``test_booted.py`` cannot exist on this machine, None where they can.
REFUSED = why_not(Path(__file__))

collect_ignore = [] if REFUSED is None else ["test_booted.py"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the service was proven with."""
    how = "a real systemd" if REFUSED is None else f"systemd-analyze and a notification socket ({REFUSED})"
    terminalreporter.line(f"service tests: {how}")
