"""When a dead engine is started again: exponential backoff with jitter, within a budget per time window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["RestartPolicy", "decide_restart"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Seconds unless said otherwise.

    ``budget``: deaths within ``window_seconds`` after which we give up; ``start_budget``: the same for an
    engine that was never ready, which seldom is a matter of luck.
    """

    first_delay_seconds: float = 0.25
    longest_delay_seconds: float = 30.0
    budget: int = 6
    start_budget: int = 3
    window_seconds: float = 120.0


def decide_restart(
    policy: RestartPolicy, deaths: Sequence[float], now: float, jitter: float, *, was_ready: bool
) -> float | None:
    """Return how many seconds to wait before the next start, or None to give up.

    ``deaths``: times of earlier deaths, the one just seen included. ``jitter``: uniform in [0, 1); it
    spreads the wait between half of it and the whole, so that many engines do not start in step.
    """
    recent = sum(1 for at in deaths if now - at <= policy.window_seconds)
    if recent >= (policy.budget if was_ready else policy.start_budget):
        return None
    whole = min(policy.longest_delay_seconds, policy.first_delay_seconds * 2.0 ** max(0, recent - 1))
    return whole * (0.5 + jitter / 2)
