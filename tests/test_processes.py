"""A process is told apart from a later one with its number."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

from llamafile_mgr.processes import is_alive, is_of_this_computer, is_running, myself, start_of


def test_this_process_lives_and_another_of_its_number_does_not() -> None:
    me = myself("test")
    assert is_alive(me)
    assert is_of_this_computer(me)
    assert is_running(me.pid, me.started_at + 0.01)
    assert is_running(me.pid, None)
    assert is_alive(dataclasses.replace(me, started_at=0.0))
    assert not is_alive(dataclasses.replace(me, started_at=me.started_at - 60))


def test_one_of_another_computer_counts_as_alive() -> None:
    other = dataclasses.replace(myself("test"), host="elsewhere.example", started_at=1.0)
    assert is_alive(other)
    assert not is_of_this_computer(other)


def test_one_that_ended_is_gone_before_it_is_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read()  # its end closes the pipe
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert start_of(child.pid) is None
    assert not is_running(child.pid, None)
