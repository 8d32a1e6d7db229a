"""The judgement over a snapshot and the launch facts: pass, warn or fail, the consequence and the fix.

Pure functions from facts to values. A check that fails means that engines of ours will not start or not
work here; a warning that something is slower, unsafe or will surprise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from llamafile_mgr.machine.check_hardware import check_cores, check_features, check_gpus, check_memory
from llamafile_mgr.machine.check_system import (
    check_handlers,
    check_limits,
    check_places,
    check_ports,
    check_programs,
    check_surroundings,
    check_system,
)
from llamafile_mgr.machine.findings import Check, CheckOutcome
from llamafile_mgr.machine.hardware import Machine
from llamafile_mgr.machine.launch import LaunchFacts

_CONCERNS: tuple[Callable[[Machine, LaunchFacts], Iterator[Check]], ...] = (
    check_system,
    check_features,
    check_cores,
    check_memory,
    check_surroundings,
    check_gpus,
    check_places,
    check_programs,
    check_handlers,
    check_limits,
    check_ports,
)


def diagnose(machine: Machine, facts: LaunchFacts) -> tuple[Check, ...]:
    """Return every check over this machine, in a fixed order."""
    return tuple(check for concern in _CONCERNS for check in concern(machine, facts))


def failures(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Return the checks that failed."""
    return tuple(check for check in checks if check.outcome is CheckOutcome.FAIL)
