"""The end of a service under load: what was accepted is answered, and nothing new is taken."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.llamafiles import pack_fake
from tests.support.service import Service, running_service

WORDS = 40


@pytest.fixture
def slow(tiny_generator: Path, tmp_path: Path) -> Path:
    """Return a generator that takes two seconds for its words."""
    return pack_fake(
        tiny_generator, tmp_path / "slow.llamafile", "--words", str(WORDS), "--word-seconds", "0.05"
    )


class Stream(threading.Thread):
    """One streamed call and all of its lines."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.url = service.url
        self.begun = threading.Event()
        self.lines: list[str] = []
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        try:
            with httpx.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=30) as reply:
                for line in reply.iter_lines():
                    self.lines.append(line)
                    self.begun.set()
        except Exception as error:  # whatever it is, it is what a client would have seen
            self.error = error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_streams_in_progress_end_properly_and_new_calls_are_refused(
    slow: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with running_service(tmp_path / "home", "--generate", str(slow)) as service:
        engines = psutil.Process(service.process.pid).children(recursive=True)
        streams = [Stream(service) for _ in range(2)]
        for stream in streams:
            assert stream.begun.wait(10)
        service.process.send_signal(number)
        service.await_event("stopping")
        time.sleep(0.3)
        assert service.process.poll() is None
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{service.url}/health", timeout=5)
        assert service.process.wait(20) == 0
        for stream in streams:
            stream.join(5)
            assert stream.error is None
            assert sum('"word' in line for line in stream.lines) == WORDS
            assert [line for line in stream.lines if line][-1] == "data: [DONE]"
        assert not psutil.wait_procs(engines, timeout=0)[1]


def test_what_takes_longer_than_the_grace_is_told_and_cut(slow: Path, tmp_path: Path) -> None:
    extra = {"LLAMAFILE_MGR_SERVE_DRAIN_SECONDS": "1"}
    with running_service(tmp_path / "home", "--generate", str(slow), extra=extra) as service:
        stream = Stream(service)
        assert stream.begun.wait(10)
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
        assert time.monotonic() - began < 15
        stream.join(5)
        # A client must never take half an answer for a whole one.
        assert stream.error is not None or any('"error"' in line for line in stream.lines)
        assert not any("[DONE]" in line for line in stream.lines)
