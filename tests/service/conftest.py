"""A real systemd where the machine allows one."""

from __future__ import annotations

from pathlib import Path

from tests.support.booted import why_not

#: The reason why the tests of ``test_booted.py`` cannot exist on this machine, None where they can.
REFUSED = why_not(Path(__file__))

collect_ignore = [] if REFUSED is None else ["test_booted.py"]
