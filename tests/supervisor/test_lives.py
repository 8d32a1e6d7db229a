"""Whole lives of an engine without a process: what follows from each event, as tables and for any order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.supervisor.diagnosis import Diagnosis, Kind
from llamafile_mgr.supervisor.lifecycle import Aftermath, Lifecycle, RestartPolicy
from llamafile_mgr.supervisor.states import EngineEvent, EngineState

POLICY = RestartPolicy()
SETTINGS = LaunchSettings(Role.GENERATE, 0, 2048, 4, slots=1)
ALIVE = (EngineState.STARTING, EngineState.WARMING, EngineState.READY)
CRASH = Diagnosis("it crashed")
KILLED = Diagnosis("it was killed", external=True)
BROKEN = Diagnosis("its file is damaged", permanent=True)
FULL = Diagnosis("the disk is full", curable=True)
AWAY = Diagnosis("it cannot be reached", curable=True, passing=True)
NO_FLAG = Diagnosis("it does not know --x", permanent=True, kind=Kind.UNKNOWN_FLAG, subject="--x")
NO_MEMORY = Diagnosis("memory ran out", kind=Kind.OUT_OF_MEMORY)

DIED, GIVE_UP = EngineEvent.DIED, EngineEvent.GIVE_UP


class Scene:
    """A lifecycle with a clock; each death comes when its try is due, and each wait is the whole one."""

    def __init__(self, *, ready: bool, policy: RestartPolicy = POLICY) -> None:
        self.life = Lifecycle(policy, SETTINGS)
        self.now = 0.0
        self.served = 0
        self.ready = ready
        self.begin(EngineEvent.SPAWN)

    def begin(self, event: EngineEvent) -> None:
        self.life.move(event)
        if self.ready:
            self.life.move(EngineEvent.ANSWERS)
            self.life.move(EngineEvent.CHECKED)

    def die(self, cause: Diagnosis = CRASH) -> Aftermath:
        """Let it die; unless it has failed for good, start it when that is due."""
        aftermath = self.life.die(cause, worked=self.served, now=self.now, jitter=1.0)
        if self.life.retry_at is not None:
            self.now = self.life.retry_at
            self.begin(EngineEvent.RETRY)
        return aftermath


@pytest.mark.parametrize(
    ("ready", "deaths", "events", "delays"),
    [
        (True, [CRASH], [DIED], [0.1]),
        (True, [CRASH] * 7, [DIED] * 7, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4]),
        (True, [CRASH] * 9, [DIED] * 8 + [GIVE_UP], [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 30.0, None]),
        (False, [CRASH] * 3, [DIED, DIED, GIVE_UP], [0.1, 0.2, None]),
        (False, [BROKEN], [GIVE_UP], [None]),
        (True, [CRASH, BROKEN], [DIED, GIVE_UP], [0.1, None]),
        # What somebody may mend is tried for ever, though it counts as failed.
        (False, [FULL] * 5, [DIED, DIED, *[GIVE_UP] * 3], [0.1, 0.2, 30.0, 30.0, 30.0]),
        (False, [AWAY] * 4, [DIED] * 4, [0.1, 0.2, 0.4, 0.8]),
        # A step down is another start, and no last try.
        (False, [NO_FLAG, CRASH], [DIED, DIED], [0.1, 0.2]),
        (False, [NO_FLAG, NO_FLAG], [DIED, GIVE_UP], [0.1, None]),
        (False, [CRASH, CRASH, NO_MEMORY], [DIED] * 3, [0.1, 0.2, 0.1]),
    ],
)
def test_deaths_in_a_row(
    ready: bool, deaths: list[Diagnosis], events: list[EngineEvent], delays: list[float | None]
) -> None:
    scene = Scene(ready=ready)
    aftermaths = [scene.die(cause) for cause in deaths]
    assert [each.event for each in aftermaths] == events
    assert [each.delay_seconds for each in aftermaths] == delays
    assert scene.life.cause == deaths[-1]


def test_one_that_has_failed_stays_so_until_its_deaths_are_forgotten() -> None:
    scene = Scene(ready=True, policy=replace(POLICY, cooldown_seconds=2.0))
    assert [scene.die(FULL).event for _ in range(14)] == [DIED] * 8 + [GIVE_UP] * 6
    scene.now += POLICY.window_seconds + 1
    assert scene.die(FULL).event is DIED


def test_what_a_step_changes_is_said_and_kept() -> None:
    scene = Scene(ready=False)
    scene.die(NO_FLAG)
    scene.die(NO_MEMORY)
    life = scene.life
    assert life.dropped == ("--x",)
    assert life.settings == replace(SETTINGS, context=1024)
    assert [text.split(",")[0] for text in life.steps] == [
        "started without --x",
        "context cut to 1024 tokens: memory was not enough",
    ]


def test_one_that_served_is_in_no_crash_loop() -> None:
    scene = Scene(ready=True)
    delays = []
    for _ in range(30):
        scene.served += 1
        delays.append(scene.die(KILLED).delay_seconds)
    assert delays == [0.1] * 30
    last = [scene.die() for _ in range(8)][-1]  # now it serves no more
    assert last.event is GIVE_UP


def test_a_death_that_a_request_caused_does_not_count() -> None:
    """However often it happens: it is started again at once, and never fails for it."""
    scene = Scene(ready=True)
    for _ in range(50):
        number = scene.life.tries
        aftermath = scene.die()
        assert (aftermath.event, aftermath.delay_seconds) == (DIED, 0.1)
        scene.life.excuse(number, scene.now)


def test_one_that_waits_long_or_has_failed_is_started_when_its_death_is_excused() -> None:
    scene = Scene(ready=True)
    for _ in range(7):
        scene.die()
    life = scene.life
    assert life.die(CRASH, worked=0, now=scene.now, jitter=1.0).delay_seconds == 30.0
    assert life.excuse(life.tries, scene.now + 2)
    assert life.retry_at == scene.now + 2
    assert not life.excuse(life.tries, scene.now + 3)  # that was it

    failed = Scene(ready=True)
    for _ in range(9):
        failed.die()
    life = failed.life
    assert (life.state, life.retry_at) == (EngineState.FAILED, None)
    assert life.excuse(life.tries, failed.now + 60)
    life.move(EngineEvent.RETRY)
    assert life.state is EngineState.STARTING


def test_excusing_an_earlier_death_shortens_the_wait_of_the_last() -> None:
    scene = Scene(ready=True)
    for _ in range(5):
        scene.die()
    life, died_at = scene.life, scene.now
    assert life.die(CRASH, worked=0, now=died_at, jitter=1.0).delay_seconds == 3.2
    assert life.excuse(2, died_at + 0.5)
    assert life.retry_at == pytest.approx(died_at + 1.6)
    assert not life.excuse(2, died_at + 0.6)
    assert life.excuse(life.tries, died_at + 0.7)
    assert not life.excuse(3, died_at + 0.8)  # it is due already
    assert life.retry_at == died_at + 0.7


def test_excusing_one_death_does_not_mend_another() -> None:
    scene = Scene(ready=True)
    scene.die()
    scene.die(BROKEN)
    assert not scene.life.excuse(1, scene.now)
    assert (scene.life.state, scene.life.retry_at) == (EngineState.FAILED, None)
    assert not scene.life.excuse(7, scene.now)


def test_an_excuse_that_comes_late_leaves_a_life_alone() -> None:
    scene = Scene(ready=True)
    scene.die()
    assert not scene.life.excuse(1, scene.now)
    assert (scene.life.state, scene.life.tries) == (EngineState.READY, 2)
    assert scene.die().delay_seconds == 0.1


class EngineLife(RuleBasedStateMachine):
    """One engine with a clock of its own; deaths and excuses come as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Lifecycle(POLICY, SETTINGS)
        self.life.move(EngineEvent.SPAWN)
        self.now = 0.0
        self.served = 0
        self.was_ready = False
        self.counted: list[tuple[int, float]] = []
        self.served_then = 0
        self.permanent = False

    @property
    def state(self) -> EngineState:
        return self.life.state

    @rule(seconds=st.floats(0, 120))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.state is EngineState.STARTING)
    @rule()
    def answers(self) -> None:
        self.life.move(EngineEvent.ANSWERS)

    @precondition(lambda self: self.state is EngineState.WARMING)
    @rule()
    def is_checked(self) -> None:
        self.life.move(EngineEvent.CHECKED)
        self.was_ready = True

    @precondition(lambda self: self.state is EngineState.READY)
    @rule()
    def works(self) -> None:
        self.served += 1

    @precondition(lambda self: self.state in ALIVE)
    @rule(
        jitter=st.floats(0, 1, exclude_max=True),
        cause=st.sampled_from([CRASH, KILLED, BROKEN, FULL, AWAY, NO_FLAG, NO_MEMORY]),
    )
    def dies(self, jitter: float, cause: Diagnosis) -> None:
        if self.served > self.served_then:
            self.counted.clear()
        self.served_then = self.served
        self.counted.append((self.life.tries, self.now))
        aftermath = self.life.die(cause, worked=self.served, now=self.now, jitter=jitter)
        self.permanent = cause.permanent
        assert self.life.cause == cause
        assert aftermath.delay_seconds is None or 0 < aftermath.delay_seconds <= 30
        assert (aftermath.event is GIVE_UP) == (self.state is EngineState.FAILED)
        if aftermath.event is GIVE_UP:
            assert (aftermath.delay_seconds is not None) == cause.curable
            budget = POLICY.budget if self.was_ready or cause.passing else POLICY.start_budget
            assert cause.permanent or len(self.counted) >= budget
        if not self.counted[:-1] and not cause.permanent:
            assert aftermath.event is DIED
            assert aftermath.delay_seconds is not None
            assert aftermath.delay_seconds <= POLICY.first_delay_seconds

    @precondition(lambda self: self.life.retry_at is not None)
    @rule()
    def is_started_again(self) -> None:
        assert self.life.retry_at is not None
        self.now = max(self.now, self.life.retry_at)
        self.life.move(EngineEvent.RETRY)

    @rule(back=st.integers(0, 12))
    def is_excused(self, back: int) -> None:
        number, before = self.life.tries - back, self.life.retry_at
        state, permanent = self.state, self.permanent
        sooner = self.life.excuse(number, self.now)
        self.counted = [each for each in self.counted if each[0] != number]
        assert self.state is state
        if sooner:
            assert state in (EngineState.BACKING_OFF, EngineState.FAILED)
            assert self.life.retry_at is not None
            assert before is None or self.life.retry_at < before
            assert back == 0 or not permanent
        else:
            assert self.life.retry_at == before
        assert not self.life.excuse(number, self.now)

    @precondition(lambda self: self.state is EngineState.READY)
    @rule()
    def is_drained(self) -> None:
        self.life.move(EngineEvent.DRAIN)

    @precondition(lambda self: self.state not in (EngineState.STOPPING, EngineState.STOPPED))
    @rule()
    def is_stopped(self) -> None:
        self.life.move(EngineEvent.STOP)
        if self.state is EngineState.STOPPING:
            self.life.move(EngineEvent.GONE)
        assert self.state is EngineState.STOPPED

    @invariant()
    def a_try_is_due_exactly_where_one_is_waited_for(self) -> None:
        if self.state is EngineState.BACKING_OFF:
            assert self.life.retry_at is not None
        elif self.state is not EngineState.FAILED:
            assert self.life.retry_at is None

    @invariant()
    def steps_are_said(self) -> None:
        changed = self.life.settings != SETTINGS or bool(self.life.dropped)
        assert changed == bool(self.life.steps)


TestEngineLife = EngineLife.TestCase


def test_a_remote_that_was_ready_once_is_given_up_as_one_that_never_was() -> None:
    wrong = Diagnosis("its vectors are wrong", curable=True)
    for changeable, events in ((True, [DIED, DIED, GIVE_UP]), (False, [DIED] * 3)):
        life = Lifecycle(POLICY, SETTINGS, changeable=changeable)
        for event in (EngineEvent.SPAWN, EngineEvent.ANSWERS, EngineEvent.CHECKED):
            life.move(event)
        found = []
        for n in range(3):
            found.append(life.die(wrong, worked=0, now=float(n), jitter=0.0).event)
            if found[-1] is DIED:
                life.move(EngineEvent.RETRY)
                life.move(EngineEvent.ANSWERS)
        assert found == events
