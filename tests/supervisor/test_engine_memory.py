"""What an engine weighs: its process and all that it started, by the one function that everybody asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from llamafile_mgr.supervisor.process_memory import resident_bytes

MIB = 1 << 20
#: A process that starts the next one for every further size, holds its own, and says its number.
PROGRAM = """
import subprocess, sys
size, *rest = sys.argv[2:]
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1], *rest]) if rest else None
held = b"x" * (int(size) << 20)
print("holding", size, flush=True)
sys.stdin.read()
if child is not None:
    child.wait()
"""


@pytest.fixture
def engine() -> Iterator[subprocess.Popen[bytes]]:
    """A process of 32 MiB, its child of 96 MiB and the child's child of 64 MiB."""
    sizes = ("32", "96", "64")
    argv = [sys.executable, "-c", PROGRAM, PROGRAM, *sizes]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = {process.stdout.readline().split()[-1].decode() for _ in sizes}
        assert said == set(sizes)
        started = psutil.Process(process.pid).children(recursive=True)
        yield process
        for child in started:
            if child.is_running():
                child.kill()
        process.kill()


def test_a_process_is_weighed_with_its_children(engine: subprocess.Popen[bytes]) -> None:
    alone = resident_bytes(engine.pid, alone=True)
    tree = resident_bytes(engine.pid)
    assert 32 * MIB < alone < 64 * MIB
    assert tree - alone > (96 + 64) * MIB
    assert tree == sum(
        each.memory_info().rss
        for each in (psutil.Process(engine.pid), *psutil.Process(engine.pid).children(recursive=True))
    )
    assert resident_bytes(os.getpid()) >= tree


def test_a_child_that_ends_takes_only_its_own_weight_away(engine: subprocess.Popen[bytes]) -> None:
    before = resident_bytes(engine.pid)
    *_, last = psutil.Process(engine.pid).children(recursive=True)
    last.kill()
    psutil.wait_procs([last], timeout=5)
    after = resident_bytes(engine.pid)
    assert before - after > 64 * MIB
    assert after > (32 + 96) * MIB


def test_what_is_gone_weighs_nothing(engine: subprocess.Popen[bytes]) -> None:
    for each in psutil.Process(engine.pid).children(recursive=True):
        each.kill()
    engine.kill()
    engine.wait()
    assert resident_bytes(engine.pid) == 0
