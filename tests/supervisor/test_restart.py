"""The restart policy over all its inputs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.supervisor.lifecycle import Aftermath, RestartPolicy, decide_restart
from llamafile_mgr.supervisor.states import EngineEvent

POLICY = RestartPolicy(
    first_delay_seconds=1.0,
    longest_delay_seconds=10.0,
    budget=5,
    start_budget=3,
    window_seconds=60.0,
    cooldown_seconds=40.0,
)


DIED, OVER = EngineEvent.DIED, Aftermath(EngineEvent.GIVE_UP, None)


def restart(delay_seconds: float) -> Aftermath:
    return Aftermath(DIED, delay_seconds)


def decide(
    deaths: list[float], now: float = 0.0, *, was_ready: bool = True, half_open: bool = False
) -> Aftermath:
    return decide_restart(POLICY, deaths, now, 1.0, was_ready=was_ready, half_open=half_open)


def test_delays_double_then_one_last_try_is_left() -> None:
    restarts = [decide([0.0] * n) for n in (1, 2, 3, 4, 5)]
    assert restarts == [*map(restart, (1.0, 2.0, 4.0, 8.0)), Aftermath(DIED, 40.0, half_open=True)]
    assert decide([0.0] * 6, half_open=True) == OVER


def test_an_engine_that_was_never_ready_gets_fewer_tries() -> None:
    assert [decide([0.0] * n, was_ready=False) for n in (1, 2, 3)] == [restart(1.0), restart(2.0), OVER]


def test_old_deaths_are_forgiven() -> None:
    assert decide([0.0] * 20 + [100.0], 100.0, half_open=True) == restart(1.0)


@given(
    st.lists(st.floats(0, 1000), min_size=1, max_size=30),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
    st.booleans(),
)
def test_a_delay_is_bounded_and_jitter_only_shortens_it(
    deaths: list[float], a: float, b: float, ready: bool, half_open: bool
) -> None:
    now = max(deaths)
    first, second = (
        decide_restart(POLICY, deaths, now, jitter, was_ready=ready, half_open=half_open) for jitter in (a, b)
    )
    assert first.event is second.event
    if first.delay_seconds is None or second.delay_seconds is None:
        assert first == second == OVER
    else:
        assert first.event is DIED
        assert 0 < first.delay_seconds <= (40.0 if first.half_open else 10.0)
        assert (first.delay_seconds <= second.delay_seconds) == (a <= b) or first == second
