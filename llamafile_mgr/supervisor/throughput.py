"""Does an engine still work as fast as it did? Its rate is compared with the best it has shown. Pure.

Only like is compared with like: a long text gives more tokens a second than a short one, and eight calls at
once more than one. So work is sorted into kinds, by its size and by how much of it is under way, each to the
power of two, and every kind has its own best rate. Time is that in which the engine had work; what is under
way together shares it by size.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass

__all__ = ["Job", "Kind", "SpeedPolicy", "SpeedWatch"]

#: The bit lengths of a job's size and of the number of jobs under way at its start.
Kind = tuple[int, int]


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
class Job:
    """Work under way. ``mark``: the reading of the shared clock at its start."""

    size: int
    kind: Kind
    mark: float


class SpeedWatch:
    """The speed of one engine. ``best``: rates per kind, shared by engines that are launched alike.

    ``share``: of the best, at the last look, None before there was anything to compare. Times come in as
    monotonic seconds.
    """

    def __init__(self, policy: SpeedPolicy, best: MutableMapping[Kind, float]) -> None:
        self.share: float | None = None
        self.slow = False
        self._policy = policy
        self._best = best
        self._jobs: set[Job] = set()
        self._load = 0
        self._clock = 0.0
        self._seen = 0.0
        self._done: dict[Kind, tuple[int, float]] = {}

    def begin(self, size: int, now: float) -> Job:
        """Note the start of work of ``size`` tokens."""
        self._advance(now)
        kind = (size.bit_length(), (len(self._jobs) + 1).bit_length())
        job = Job(size, kind, self._clock)
        self._jobs.add(job)
        self._load += size
        return job

    def end(self, job: Job, now: float, *, answered: bool) -> bool:
        """Note the end of work; tells whether the engine has become slow, or is no longer."""
        if job not in self._jobs:
            return False  # begun before the engine's settings were changed
        self._advance(now)
        self._jobs.remove(job)
        self._load -= job.size
        if not answered:
            return False
        size, seconds = self._done.get(job.kind, (0, 0.0))
        self._done[job.kind] = size + job.size, seconds + job.size * (self._clock - job.mark)
        return self._look()

    def _advance(self, now: float) -> None:
        """Move the shared clock: its seconds are those that each token under way has been given."""
        if self._load:
            self._clock += max(0.0, now - self._seen) / self._load
        self._seen = now

    def _look(self) -> bool:
        policy = self._policy
        if sum(seconds for _, seconds in self._done.values()) < policy.window_seconds:
            return False
        done, self._done = self._done, {}
        known = {kind: value for kind, value in done.items() if kind in self._best}
        taken = sum(seconds for _, seconds in known.values())
        was_slow = self.slow
        # Half of the window must be comparable; else the work was of another kind than ever before.
        if taken >= policy.window_seconds / 2:
            expected = sum(size / self._best[kind] for kind, (size, _) in known.items())
            self.share = expected / taken
            limit = policy.recovered_share if was_slow else policy.slow_share
            self.slow = self.share < limit
        for kind, (size, seconds) in done.items():
            if seconds >= policy.least_share * policy.window_seconds:
                self._best[kind] = max(self._best.get(kind, 0.0), size / seconds)
        return self.slow is not was_slow
