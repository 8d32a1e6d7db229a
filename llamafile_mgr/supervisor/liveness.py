"""Is a ready engine still alive? When to ask it, and when its silence means that it hangs. Pure.

A health route stays green on servers whose work has stopped, and on others it waits behind the work; an
engine that computes a long text is silent for good reasons. (Measured on the classic server: 133 seconds
for 1,502 tokens, and as long for its ``/health``.) So one that owes answers is judged by signs of work:
bytes that it sends, lines that it logs, processor time that it takes, weights that it reads. Where these
have stopped it is asked for its health, or taken to hang where no health route could answer. Nor do signs
excuse it for ever: what it owes allows it the time that the slowest machine would need. A silent idle
engine is asked for a small real answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

#: Every token needs all weights once: bytes a second below which nobody waits for a machine.
_SLOWEST_BYTES = 10**9
#: Of one processor's time: idle engines of all generations take less than a tenth of it.
_LEAST_SHARE = 0.02


class Probe(StrEnum):
    """What to ask now."""

    NOTHING = "nothing"
    HEALTH = "health"
    WORK = "work"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class LivenessPolicy:
    """Seconds.

    ``tick_seconds``: between two looks. ``silent_seconds``: a busy engine that gave no sign of work for so
    long is asked for its health. ``idle_seconds``: so often an idle engine gets a real request.
    ``health_deadline``, ``work_deadline``: for the answers. ``busy_limit_seconds``: silence of a busy engine
    that is allowed however little it owes, while it gives signs of work.
    """

    tick_seconds: float = 1.0
    silent_seconds: float = 3.0
    idle_seconds: float = 30.0
    health_deadline_seconds: float = 3.0
    work_deadline_seconds: float = 30.0
    busy_limit_seconds: float = 300.0

    @property
    def still_seconds(self) -> float:
        """Return after how long without a sign an engine hangs whose health route could not tell."""
        return self.silent_seconds + self.health_deadline_seconds


@dataclass(frozen=True, slots=True)
class Signs:
    """What is seen of an engine. Seconds: since its last byte, since its last sign of work, since it was last
    asked, and the silence that its work allows. ``in_flight``: requests that it owes answers to."""

    silent: float
    still: float
    probed: float
    allowed: float
    in_flight: int


@dataclass(frozen=True, slots=True)
class Effort:
    """What a process and its descendants have used so far: seconds of processors, bytes read from disks."""

    cpu_seconds: float
    read_bytes: int


class Pulse:
    """When a process last showed that it works. ``at``: monotonic seconds, ``-inf`` before the first sign."""

    def __init__(self) -> None:
        self.at = float("-inf")
        self._since, self._before = float("-inf"), Effort(0.0, 0)

    def feel(self, effort: Effort, now: float, window_seconds: float) -> None:
        """Compare with the last sign, or with what was seen at most ``window_seconds`` ago."""
        if now - self._since <= window_seconds:
            spent = effort.cpu_seconds - self._before.cpu_seconds
            if spent < _LEAST_SHARE * (now - self._since) and effort.read_bytes <= self._before.read_bytes:
                return
            self.at = now
        self._since, self._before = now, effort


def longest_silence(policy: LivenessPolicy, tokens: int, weights_bytes: int) -> float:
    """Return the seconds after which an engine with these weights hangs that owes so many tokens."""
    return max(policy.busy_limit_seconds, tokens * weights_bytes / _SLOWEST_BYTES)


def works(policy: LivenessPolicy, signs: Signs) -> bool:
    """Tell whether an engine that does not answer is at work, on something older perhaps."""
    return signs.still < policy.silent_seconds and signs.silent < signs.allowed


def decide_probe(policy: LivenessPolicy, signs: Signs, when_still: Probe) -> Probe:
    """Return what to do now. ``when_still``: what follows when a busy engine gives no sign of work.

    That is ``HEALTH`` where the health route answers meanwhile, ``HUNG`` where it does not and nothing that
    works could be without a sign, ``NOTHING`` where signs cannot be seen. An answered probe ends the silence.
    """
    if not signs.in_flight:
        return Probe.WORK if min(signs.silent, signs.probed) >= policy.idle_seconds else Probe.NOTHING
    if signs.silent >= signs.allowed:
        return Probe.HUNG
    if when_still is Probe.HUNG:
        return Probe.HUNG if signs.still >= policy.still_seconds else Probe.NOTHING
    return when_still if min(signs.still, signs.probed) >= policy.silent_seconds else Probe.NOTHING
