"""Whole lives of an engine, driven by hypothesis: the states and the restart policy together."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llamafile_mgr.supervisor.restart import RestartPolicy, decide_restart
from llamafile_mgr.supervisor.states import EngineEvent, EngineState, next_state

POLICY = RestartPolicy()
ALIVE = (EngineState.STARTING, EngineState.WARMING, EngineState.READY)


class EngineLife(RuleBasedStateMachine):
    """One engine with a clock of its own; deaths come as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.state = next_state(EngineState.PLANNED, EngineEvent.SPAWN)
        self.now = 0.0
        self.deaths: list[float] = []
        self.was_ready = False
        self.half_open = False
        self.worked = False
        self.delay = 0.0

    def move(self, event: EngineEvent) -> None:
        self.state = next_state(self.state, event)

    @rule(seconds=st.floats(0, 120))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.state is EngineState.STARTING)
    @rule()
    def answers(self) -> None:
        self.move(EngineEvent.ANSWERS)

    @precondition(lambda self: self.state is EngineState.WARMING)
    @rule()
    def is_checked(self) -> None:
        self.move(EngineEvent.CHECKED)
        self.was_ready = True

    @precondition(lambda self: self.state is EngineState.READY)
    @rule()
    def works(self) -> None:
        self.worked = True

    @precondition(lambda self: self.state in ALIVE)
    @rule(jitter=st.floats(0, 1, exclude_max=True))
    def dies(self, jitter: float) -> None:
        if self.worked:
            self.deaths.clear()
            self.half_open = False
        self.worked = False
        self.deaths.append(self.now)
        restart = decide_restart(
            POLICY, self.deaths, self.now, jitter, was_ready=self.was_ready, half_open=self.half_open
        )
        if restart is None:
            self.move(EngineEvent.GIVE_UP)
            return
        self.half_open, self.delay = restart.half_open, restart.delay_seconds
        self.move(EngineEvent.DIED)

    @precondition(lambda self: self.state is EngineState.BACKING_OFF)
    @rule()
    def is_started_again(self) -> None:
        self.now += self.delay
        self.move(EngineEvent.RETRY)

    @precondition(lambda self: self.state is EngineState.READY)
    @rule()
    def is_drained(self) -> None:
        self.move(EngineEvent.DRAIN)

    @precondition(lambda self: self.state not in (EngineState.STOPPING, EngineState.STOPPED))
    @rule()
    def is_stopped(self) -> None:
        self.move(EngineEvent.STOP)
        if self.state is EngineState.STOPPING:
            self.move(EngineEvent.GONE)
        assert self.state is EngineState.STOPPED

    @invariant()
    def gives_up_only_after_its_budget(self) -> None:
        if self.state is EngineState.FAILED:
            recent = [
                at for at in self.deaths if self.now - at <= POLICY.window_seconds or at == self.deaths[-1]
            ]
            least = POLICY.budget if self.was_ready else POLICY.start_budget
            assert len(self.deaths) >= least
            assert recent

    @invariant()
    def waits_are_bounded(self) -> None:
        assert self.delay <= max(POLICY.longest_delay_seconds, POLICY.cooldown_seconds)


TestEngineLife = EngineLife.TestCase
