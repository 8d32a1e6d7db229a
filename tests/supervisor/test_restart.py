"""The restart policy over all its inputs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.supervisor.restart import RestartPolicy, decide_restart

POLICY = RestartPolicy(first_delay_seconds=1.0, longest_delay_seconds=10.0, budget=5, window_seconds=60.0)


def test_delays_double_within_the_window() -> None:
    delays = [decide_restart(POLICY, [0.0] * n, 0.0, jitter=1.0, was_ready=True) for n in (1, 2, 3, 4, 5, 6)]
    assert delays == [1.0, 2.0, 4.0, 8.0, None, None]


def test_an_engine_that_was_never_ready_gets_fewer_tries() -> None:
    delays = [decide_restart(POLICY, [0.0] * n, 0.0, jitter=1.0, was_ready=False) for n in (1, 2, 3)]
    assert delays == [1.0, 2.0, None]


def test_old_deaths_are_forgiven() -> None:
    assert decide_restart(POLICY, [0.0] * 20 + [100.0], 100.0, jitter=1.0, was_ready=True) == 1.0


@given(
    st.lists(st.floats(0, 1000), max_size=30),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
)
def test_a_delay_is_bounded_and_jitter_only_shortens_it(
    deaths: list[float], a: float, b: float, ready: bool
) -> None:
    now = max(deaths, default=0.0)
    first, second = (decide_restart(POLICY, deaths, now, jitter, was_ready=ready) for jitter in (a, b))
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert 0 < first <= POLICY.longest_delay_seconds
        assert (first <= second) == (a <= b) or first == second
