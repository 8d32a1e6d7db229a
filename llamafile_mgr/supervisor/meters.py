"""How fast an engine works: its rate, the share of the best it has shown, and when there will be room. Pure.

Only like is compared with like: a long text gives more tokens a second than a short one, and eight calls at
once more than one. So work is sorted into kinds, by its size and by how much of it is under way, each to the
power of two, and every kind has its own best rate. Time is that in which the engine had work; what is under
way together shares it by size. Times come in as monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass

#: The bit lengths of a job's size and of the number of jobs under way at its start.
Kind = tuple[int, int]

#: Busy time after which a measurement counts half.
_HALF_LIFE_SECONDS = 20.0
#: Fewer answers, or less time, say nothing: the first ones pay for connections and cold caches.
_LEAST_ANSWERS = 8
_LEAST_BUSY_SECONDS = 0.05
#: After so long without an answer the rate is forgotten, so that one that was slow once gets another chance.
_STALE_SECONDS = 20.0
_LONGEST_RETRY_SECONDS = 120


def retry_seconds(tokens_ahead: int, rate: float | None) -> int:
    """Return whole seconds until half of what is queued should be done at ``rate`` tokens a second."""
    if not rate:
        return 1
    return min(_LONGEST_RETRY_SECONDS, max(1, math.ceil(tokens_ahead / 2 / rate)))


@dataclass(frozen=True, slots=True)
class SpeedPolicy:
    """``window_seconds``: busy time that one look at the speed takes; a kind that fills ``least_share`` of it
    sets a best rate. An engine counts as slow below ``slow_share`` of its best, until it is above
    ``recovered_share``."""

    window_seconds: float = 20.0
    least_share: float = 0.1
    slow_share: float = 0.5
    recovered_share: float = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class MeteredWork:
    """Work under way. ``mark``: the reading of the shared clock at its start."""

    size: int
    kind: Kind
    mark: float


class EngineMeter:
    """The speed of one engine. ``best``: rates per kind, shared by engines that are launched alike; None for
    one whose sizes are guesses, which is never called slow.

    ``share``: of the best, at the last look, None before there was anything to compare.
    """

    def __init__(self, policy: SpeedPolicy, best: MutableMapping[Kind, float] | None) -> None:
        self.share: float | None = None
        self.slow = False
        self._policy = policy
        self._best = best
        self._jobs: set[MeteredWork] = set()
        self._load = 0
        self._clock = 0.0
        self._seen = 0.0
        self._done: dict[Kind, tuple[int, float]] = {}
        self._work = 0.0
        self._busy = 0.0
        self._answers = 0
        self._answered_at = -math.inf
        self._last_rate: float | None = None

    def begin(self, size: int, now: float) -> MeteredWork:
        """Note the start of work of ``size`` tokens, at least 1."""
        if not self._jobs and now - self._answered_at > _STALE_SECONDS:
            self._last_rate = self.rough_rate()
            self._work, self._busy, self._answers = 0.0, 0.0, 0
        self._advance(now)
        kind = (size.bit_length(), (len(self._jobs) + 1).bit_length())
        job = MeteredWork(size, kind, self._clock)
        self._jobs.add(job)
        self._load += size
        return job

    def end(self, job: MeteredWork, now: float, *, answered: bool) -> bool:
        """Note the end of work; tells whether the engine has become slow, or is no longer."""
        if job not in self._jobs:
            return False  # begun before the engine's settings were changed
        self._advance(now)
        self._jobs.remove(job)
        self._load -= job.size
        if not answered:
            return False
        self._work += job.size
        self._answers += 1
        self._answered_at = now
        if self._best is None:
            return False
        size, seconds = self._done.get(job.kind, (0, 0.0))
        self._done[job.kind] = size + job.size, seconds + job.size * (self._clock - job.mark)
        return self._look(self._best)

    def rate(self, now: float) -> float | None:
        """Return the tokens per busy second, None when little or nothing is known of late."""
        if self._answers < _LEAST_ANSWERS or self._busy < _LEAST_BUSY_SECONDS:
            return None
        return None if now - self._answered_at > _STALE_SECONDS else self._work / self._busy

    def rough_rate(self) -> float | None:
        """Return the same from however few answers, and however old: better than nothing for a guess."""
        return self._work / self._busy if self._busy > 0 and self._work > 0 else self._last_rate

    def _advance(self, now: float) -> None:
        """Move the shared clock: its seconds are those that each token under way has been given."""
        passed, self._seen = max(0.0, now - self._seen), now
        if self._load:
            self._clock += passed / self._load
            kept = 0.5 ** (passed / _HALF_LIFE_SECONDS)
            self._work *= kept
            self._busy = self._busy * kept + passed

    def _look(self, best: MutableMapping[Kind, float]) -> bool:
        policy = self._policy
        if sum(seconds for _, seconds in self._done.values()) < policy.window_seconds:
            return False
        done, self._done = self._done, {}
        known = {kind: value for kind, value in done.items() if kind in best}
        taken = sum(seconds for _, seconds in known.values())
        was_slow = self.slow
        # Half of the window must be comparable; else the work was of another kind than ever before.
        if taken >= policy.window_seconds / 2:
            expected = sum(size / best[kind] for kind, (size, _) in known.items())
            self.share = expected / taken
            limit = policy.recovered_share if was_slow else policy.slow_share
            self.slow = self.share < limit
        for kind, (size, seconds) in done.items():
            if seconds >= policy.least_share * policy.window_seconds:
                best[kind] = max(best.get(kind, 0.0), size / seconds)
        return self.slow is not was_slow
