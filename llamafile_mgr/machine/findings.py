"""The form of a check's result, and the three ways to make one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckOutcome(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``consequence`` and ``fix`` are set unless it passed."""

    name: str
    outcome: CheckOutcome
    finding: str
    consequence: str | None = None
    fix: str | None = None


def passed(name: str, finding: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, CheckOutcome.PASS, finding)


def warned(name: str, finding: str, consequence: str, fix: str) -> Check:
    """Return a check that found something slower, unsafe or surprising."""
    return Check(name, CheckOutcome.WARN, finding, consequence, fix)


def failed(name: str, finding: str, consequence: str, fix: str) -> Check:
    """Return a check that found what stops engines of ours."""
    return Check(name, CheckOutcome.FAIL, finding, consequence, fix)


def gib(count: int | None) -> str:
    """Return a size in GiB for a sentence."""
    return "unknown" if count is None else f"{count / 1024**3:.1f} GiB"
