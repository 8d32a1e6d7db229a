"""The program as its users run it: a child process, on a free port, with a home of its own."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.supervisor.asking import control_socket, send_command

__all__ = [
    "Service",
    "program",
    "read_models",
    "run_program",
    "running_service",
    "service_links",
    "share_store",
]

START_SECONDS = 45.0
STOP_SECONDS = 20.0


def share_store(model_home: Path, home: Path) -> None:
    """Give ``home`` a store of its own with the same files; they are linked where the disk allows it."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(model_home / "store", home / "store", copy_function=link)


def program(*arguments: str) -> list[str]:
    """Return the argv of our command line."""
    return [sys.executable, "-m", "llamafile_mgr", *arguments]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a child's environment: this one's, without settings of ours, under ``home``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LLAMAFILE_MGR_")}
    root = str(Path(__file__).parent.parent.parent)
    # What a developer has on PATH must not change which engine is tested.
    ours = {"LLAMAFILE_MGR_HOME": str(home), "LLAMAFILE_MGR_ENGINES_SEARCH_PATH": "no"}
    return {**kept, "PYTHONPATH": root, **ours, **(extra or {})}


def run_program(
    home: Path, *arguments: str, extra: Mapping[str, str] | None = None, seconds: float = 50
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end and return what it said."""
    return subprocess.run(
        program(*arguments),
        env=environment(home, extra),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@dataclass
class Service:
    """A running ``serve --json``."""

    process: subprocess.Popen[str]
    url: str = ""
    events: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    errors: list[str] = field(default_factory=list)

    def await_event(self, name: str, seconds: float = START_SECONDS) -> dict[str, Any]:
        """Return the next event of this name; fails when the program ends first."""
        while True:
            try:
                event = self.events.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"no event {name!r}; stderr: {''.join(self.errors)}") from None
            if event["event"] == name:
                return event
            if event["event"] == "end of output":
                raise AssertionError(f"ended before {name!r}; stderr: {''.join(self.errors)}")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


def read_models(home: Path, service: Service) -> list[dict[str, Any]]:
    """Return what ``status --json`` says of the models, without starting a program for it."""
    runtime = resolve_paths({"LLAMAFILE_MGR_HOME": str(home)}).runtime
    path = control_socket(runtime, int(service.url.rsplit(":", 1)[1]))
    [answer] = send_command(path, {"command": "status"}, seconds=10.0)
    models = answer["models"]
    assert isinstance(models, list)
    return models


def service_links(service: str, port: int = 8080) -> dict[str, str]:
    """Return the variables that Kubernetes puts into every container beside a service of this name."""
    stem, address = service.upper().replace("-", "_"), f"tcp://10.96.7.1:{port}"
    return {
        f"{stem}_SERVICE_HOST": "10.96.7.1",
        f"{stem}_SERVICE_PORT": str(port),
        f"{stem}_SERVICE_PORT_HTTP": str(port),
        f"{stem}_PORT": address,
        f"{stem}_PORT_{port}_TCP": address,
        f"{stem}_PORT_{port}_TCP_PROTO": "tcp",
        f"{stem}_PORT_{port}_TCP_PORT": str(port),
        f"{stem}_PORT_{port}_TCP_ADDR": "10.96.7.1",
    }


@contextmanager
def running_service(
    home: Path, *arguments: str, extra: Mapping[str, str] | None = None, ready: bool = True
) -> Iterator[Service]:
    """Run ``serve`` with these arguments and stop it at the end; waits for readiness unless told not to."""
    argv: Sequence[str] = program("serve", "--port", "0", "--json", *arguments)
    process = subprocess.Popen(
        argv, env=environment(home, extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    service = Service(process)
    readers = [
        threading.Thread(target=_read_events, args=(service,), daemon=True),
        threading.Thread(target=_read_errors, args=(service,), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        service.url = service.await_event("listening")["url"]
        if ready:
            service.await_event("ready")
        yield service
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            for reader in readers:
                reader.join(5)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def _read_events(service: Service) -> None:
    assert service.process.stdout is not None
    for line in service.process.stdout:
        service.events.put(json.loads(line))
    service.events.put({"event": "end of output"})


def _read_errors(service: Service) -> None:
    assert service.process.stderr is not None
    service.errors.extend(service.process.stderr)
