"""What becomes of one engine, here or elsewhere: events move its state, and a death decides what comes next.

A dead engine is started again with exponential backoff and jitter, within a budget per time window. One that
has used its budget gets one more start after a long pause (a half-open circuit); when that ends as the others
did, it has failed.

Pure: time comes in, and what is to be done is returned or read; ``Backend`` carries it out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.supervisor.degradation import Degradation, degrade
from llamafile_mgr.supervisor.diagnosis import Diagnosis
from llamafile_mgr.supervisor.states import EngineEvent, EngineState, next_state


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
class Aftermath:
    """What follows from a death: DIED or GIVE_UP, and the seconds until the next try, None for never.

    ``step``: what that try does differently. ``half_open``: it is the last one.
    """

    event: EngineEvent
    delay_seconds: float | None
    step: Degradation | None = None
    half_open: bool = False


def decide_restart(
    policy: RestartPolicy,
    deaths: Sequence[float],
    now: float,
    jitter: float,
    *,
    was_ready: bool,
    half_open: bool = False,
) -> Aftermath:
    """Return what follows from the last of ``deaths``: when to start again, or to give up.

    ``deaths``: times of deaths, the one just seen included. ``jitter``: uniform in [0, 1); it spreads the
    wait between half of it and the whole, so that many engines do not start in step. ``was_ready``: the
    engine has served before. ``half_open``: the start that just died was the last try.
    """
    recent = sum(1 for at in deaths if now - at <= policy.window_seconds)
    spread = 0.5 + jitter / 2
    spent = recent >= policy.budget
    if (spent and half_open) or (recent >= policy.start_budget and not was_ready):
        return Aftermath(EngineEvent.GIVE_UP, None)
    if spent:
        return Aftermath(EngineEvent.DIED, policy.cooldown_seconds * spread, half_open=True)
    whole = min(policy.longest_delay_seconds, policy.first_delay_seconds * 2.0 ** max(0, recent - 1))
    return Aftermath(EngineEvent.DIED, whole * spread)


@dataclass(slots=True)
class _Death:
    """One that counts against the budget. ``number``: of the try that it ended."""

    number: int
    at: float
    jitter: float
    cause: Diagnosis
    half_open: bool = False


class Lifecycle:
    """The state of an engine and how it got there.

    ``cause``: why it last died. ``retry_at``: when it is due for its next try. ``tries``: how often it was
    started. ``settings``, ``dropped``, ``steps``: what the next try is made of, and why it differs.
    ``changeable``: somebody else may put another program in its place, so that having been ready says
    nothing of its next try.
    """

    def __init__(self, policy: RestartPolicy, settings: LaunchSettings, *, changeable: bool = False) -> None:
        self._changeable = changeable
        self.state = EngineState.PLANNED
        self.cause: Diagnosis | None = None
        self.retry_at: float | None = None
        self.tries = 0
        self.settings = settings
        self.dropped: tuple[str, ...] = ()
        self.steps: tuple[str, ...] = ()
        self._policy = policy
        self._was_ready = False
        self._worked = 0
        self._deaths: deque[_Death] = deque(maxlen=64)

    def move(self, event: EngineEvent) -> None:
        """Take in what is no death. Raises ValueError for what this state does not know."""
        self.state = next_state(self.state, event)
        self.retry_at = None
        self.tries += event in (EngineEvent.SPAWN, EngineEvent.RETRY)
        if self._changeable and event is EngineEvent.RETRY:
            self._was_ready = False
        self._was_ready |= event is EngineEvent.CHECKED

    def die(self, cause: Diagnosis, *, worked: int, now: float, jitter: float) -> Aftermath:
        """Take in a death, and return what follows. ``worked``: calls that it has computed in
        all lives. ``jitter``: as for ``decide_restart``."""
        if worked > self._worked:
            # It worked in this life, so this is no crash loop: what killed it came from outside or is rare.
            self._deaths.clear()
        last_try = bool(self._deaths) and self._deaths[-1].half_open
        self._worked, self.cause = worked, cause
        death = _Death(self.tries, now, jitter, cause)
        self._deaths.append(death)
        aftermath = self._decide(death, half_open=last_try)
        death.half_open = aftermath.half_open or aftermath.event is EngineEvent.GIVE_UP
        if (step := aftermath.step) is not None:
            self.settings = step.settings
            self.steps += (step.text,)
            self.dropped += () if step.dropped is None else (step.dropped,)
        self.state = next_state(self.state, aftermath.event)
        delay = aftermath.delay_seconds
        self.retry_at = None if delay is None else now + delay
        return aftermath

    def excuse(self, number: int, now: float) -> bool:
        """Let the death that ended this try count for nothing: a request is to blame, and not the engine.

        Returns whether the next try is due earlier for it, now if it was the last death. Steps that were
        taken stay: memory that one request has shown to be short is short.
        """
        excused = next((death for death in self._deaths if death.number == number), None)
        if excused is None:
            return False
        self._deaths.remove(excused)
        if self.state not in (EngineState.BACKING_OFF, EngineState.FAILED):
            return False
        due: float | None = now
        if number != self.tries:
            due = self._decide_last_again()
        if due is None or (self.retry_at is not None and self.retry_at <= due):
            return False
        self.retry_at = due
        return True

    def _decide_last_again(self) -> float | None:
        """Return when the next try is due now that an earlier death does not count."""
        if not self._deaths or self._deaths[-1].number != self.tries:
            return None  # the last death does not count either, so it is due at once
        last = self._deaths[-1]
        delay = self._decide(last, half_open=False).delay_seconds
        return None if delay is None else last.at + delay

    def _decide(self, death: _Death, *, half_open: bool) -> Aftermath:
        policy, cause = self._policy, death.cause
        step = degrade(self.settings, cause, self.dropped)
        if step is not None:
            return Aftermath(EngineEvent.DIED, policy.first_delay_seconds, step)
        if not cause.permanent:
            aftermath = decide_restart(
                policy,
                [each.at for each in self._deaths],
                death.at,
                death.jitter,
                was_ready=self._was_ready or cause.passing,
                half_open=half_open,
            )
            if aftermath.event is EngineEvent.DIED:
                return aftermath
        return Aftermath(EngineEvent.GIVE_UP, policy.cooldown_seconds if cause.curable else None)
