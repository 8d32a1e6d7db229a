"""The README's story: one home, one folder, one service, and lines that are run as a reader would run them.

What differs from the text stands in the tables below: the port, a tiny model that generates noise in place
of a real one, and what a reader has or types.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.commands import find_commands
from tests.support.readme import fences
from tests.support.service import environment

__all__ = ["SERVE_LINES", "STAND_INS", "Story"]

ROOT = Path(__file__).parent.parent.parent

#: Models of a hub -> what stands in for them where a command is run.
STAND_INS = {"qwen3-5-2b": "tiny-generator.gguf"}
#: What the reader has.
FILES = {
    "corpus.jsonl": "".join(json.dumps({"id": n, "text": f"text number {n}"}) + "\n" for n in range(40)),
    "notes/museum.txt": "The museum closes at six in the evening, on Mondays it stays shut.",
    "notes/garden.md": "Tomatoes want sun, water in the morning and a stake to climb.",
}
#: Commands that go on until Ctrl-C.
ENDLESS = ("--watch", " -f ", "--follow")
#: Exit codes other than 0 that say something of this machine and not of the command.
MAY_EXIT = {"doctor": {10}, "recommend": {10}}
SERVE_LINES = [
    line
    for fence in fences("sh")
    if not fence.dry
    for line in fence.commands
    if line.startswith("llamafile-mgr serve")
]


class Story:
    """One home, one folder, and the service that the README's own lines start."""

    def __init__(self, home: Path, folder: Path, port: int) -> None:
        self.folder = folder
        self._home = home
        self._port = port
        self._service: subprocess.Popen[str] | None = None
        self._models: set[str] = set()
        self.events: list[dict[str, Any]] = []
        programs = folder / "bin"
        programs.mkdir(parents=True)
        for name, words in (("llamafile-mgr", "-m llamafile_mgr "), ("python", ""), ("python3", "")):
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words}"$@"\n')
            (programs / name).chmod(0o755)
        variables = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "LLAMAFILE_MGR_SERVE_PORT": str(port),
            "LLAMAFILE_URL": f"http://127.0.0.1:{port}",
        }
        self.environ = environment(home, variables)
        (folder / "scripts").symlink_to(ROOT / "scripts")
        for name, text in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        for fence in fences():
            if fence.file:
                (folder / fence.file).write_text(fence.body, encoding="utf-8")

    def run(self, line: str) -> str:
        """Run a line as a shell does and return what it printed."""
        line = self._localise(line)
        if any(word in f"{line} " for word in ENDLESS):
            return self._run_for_a_while(line)
        done = subprocess.run(
            ["sh", "-euc", line],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        allowed = {0} | MAY_EXIT.get((shlex.split(line)[1:2] or [""])[0], set())
        assert done.returncode in allowed, f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def _localise(self, line: str) -> str:
        for model, file in STAND_INS.items() if "mgr pull " not in line else ():
            line = re.sub(rf"(?<=\s){model}(?=\s|$)", file, line)
        line = line.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{self._port}")
        return f"{line} --silent --show-error --fail" if line.startswith("curl ") else line

    def _run_for_a_while(self, line: str) -> str:
        """Run a line until it has printed something, end it as Ctrl-C does, and return that."""
        process = subprocess.Popen(
            ["sh", "-euc", f"exec {line}"],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        assert process.returncode in (0, 130), f"{line}: {process.returncode} {errors}"
        assert "Traceback" not in errors
        return first

    def serve(self, line: str) -> None:
        """Start the service as this line of the README does, in place of one with fewer models."""
        wanted = set(find_commands(line)[0][2::2])
        running = self._service is not None and self._service.poll() is None
        if running and wanted <= self._models:
            return
        self.stop()
        argv = ["sh", "-euc", f"exec {self._localise(line)} --json"]
        self._service = subprocess.Popen(
            argv, cwd=self.folder, env=self.environ, stdout=subprocess.PIPE, text=True
        )
        self._models = wanted
        assert self._service.stdout is not None
        self.events = []
        while not self.events or self.events[-1]["event"] != "ready":
            told = self._service.stdout.readline()
            assert told, line
            self.events.append(json.loads(told))

    def need_service(self) -> None:
        """Start the service with the README's longest line unless one runs."""
        self.serve(max(SERVE_LINES, key=len))

    def stop(self) -> None:
        """End the service."""
        if self._service is None:
            return
        if self._service.poll() is None:
            self._service.send_signal(signal.SIGINT)
        self._service.wait(20)
        assert self._service.stdout is not None
        self._service.stdout.close()
        self._service = None
