"""The state table: reachable, without dead ends, and silent on nonsense."""

from __future__ import annotations

import pytest

from llamafile_mgr.supervisor.states import TRANSITIONS, EngineEvent, EngineState, next_state


def test_every_state_is_reached_and_can_be_stopped() -> None:
    reached, pending = {EngineState.PLANNED}, [EngineState.PLANNED]
    while pending:
        state = pending.pop()
        for (source, _), target in TRANSITIONS.items():
            if source is state and target not in reached:
                reached.add(target)
                pending.append(target)
    assert reached == set(EngineState)
    for state in set(EngineState) - {EngineState.STOPPED, EngineState.STOPPING}:
        assert (state, EngineEvent.STOP) in TRANSITIONS
    assert not any(source is EngineState.STOPPED for source, _ in TRANSITIONS)


def test_only_a_check_makes_an_engine_ready() -> None:
    into_ready = [key for key, target in TRANSITIONS.items() if target is EngineState.READY]
    assert into_ready == [(EngineState.WARMING, EngineEvent.CHECKED)]


@pytest.mark.parametrize("state", list(EngineState))
@pytest.mark.parametrize("event", list(EngineEvent))
def test_unknown_moves_are_refused(state: EngineState, event: EngineEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(ValueError, match="cannot"):
            next_state(state, event)
