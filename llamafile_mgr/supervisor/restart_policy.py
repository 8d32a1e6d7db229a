"""When a dead engine is started again: exponential backoff with jitter, within a budget per time window.

An engine that has used its budget gets one more start after a long pause (a half-open circuit); when that
ends as the others did, it has failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Restart", "RestartPolicy", "decide_restart"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Seconds unless said otherwise.

    ``budget``: deaths within ``window_seconds`` after which only the half-open try is left;
    ``start_budget``: deaths of an engine that was never ready, which seldom are a matter of luck, after which
    it has failed. ``cooldown_seconds``: the pause before the half-open try.
    """

    first_delay_seconds: float = 0.1
    longest_delay_seconds: float = 15.0
    budget: int = 8
    start_budget: int = 3
    window_seconds: float = 60.0
    cooldown_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Start again after ``delay_seconds``; ``half_open``: it is the last try."""

    delay_seconds: float
    half_open: bool = False


def decide_restart(
    policy: RestartPolicy,
    deaths: Sequence[float],
    now: float,
    jitter: float,
    *,
    was_ready: bool,
    half_open: bool = False,
) -> Restart | None:
    """Return when to start again, None to give up.

    ``deaths``: times of deaths, the one just seen included. ``jitter``: uniform in [0, 1); it spreads the
    wait between half of it and the whole, so that many engines do not start in step. ``was_ready``: the
    engine has served before. ``half_open``: the start that just died was the last try.
    """
    recent = sum(1 for at in deaths if now - at <= policy.window_seconds)
    spread = 0.5 + jitter / 2
    if not was_ready and recent >= policy.start_budget:
        return None
    if recent >= policy.budget:
        return None if half_open else Restart(policy.cooldown_seconds * spread, half_open=True)
    whole = min(policy.longest_delay_seconds, policy.first_delay_seconds * 2.0 ** max(0, recent - 1))
    return Restart(whole * spread)
