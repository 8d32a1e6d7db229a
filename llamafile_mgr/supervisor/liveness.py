"""Is a ready engine still alive? When to ask it, and when its silence means that it hangs. Pure.

A health route stays green on servers whose work has stopped, and an engine that computes a long text is
silent for good reasons. So bytes from the engine count as life; a silent idle engine is asked for a small
real answer, and a silent busy one must at least answer its health route.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["LivenessPolicy", "Probe", "decide_probe"]


class Probe(StrEnum):
    """What to ask now."""

    NOTHING = "nothing"
    HEALTH = "health"
    WORK = "work"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class LivenessPolicy:
    """Seconds.

    ``tick_seconds``: between two looks. ``silent_seconds``: a busy engine that said nothing for so long is
    asked for its health. ``idle_seconds``: so often an idle engine gets a real request. ``health_deadline``,
    ``work_deadline``: for the answers. ``busy_limit_seconds``: silence of a busy engine, health or not, that
    means it hangs.
    """

    tick_seconds: float = 1.0
    silent_seconds: float = 3.0
    idle_seconds: float = 30.0
    health_deadline_seconds: float = 3.0
    work_deadline_seconds: float = 30.0
    busy_limit_seconds: float = 300.0


def decide_probe(policy: LivenessPolicy, *, silent_for: float, probed_ago: float, in_flight: int) -> Probe:
    """Return what to do about an engine that sent its last byte ``silent_for`` seconds ago.

    ``probed_ago``: since the last probe was sent; an answered probe ended the silence.
    """
    if in_flight > 0:
        if silent_for >= policy.busy_limit_seconds:
            return Probe.HUNG
        due = silent_for >= policy.silent_seconds and probed_ago >= policy.silent_seconds
        return Probe.HEALTH if due else Probe.NOTHING
    return Probe.WORK if min(silent_for, probed_ago) >= policy.idle_seconds else Probe.NOTHING
