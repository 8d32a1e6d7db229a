"""The servers that bench_embed.py measures: started, asked over HTTP, and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from llamafile_mgr.engines.messages import json_request  # noqa: E402
from llamafile_mgr.engines.transport import EngineClient  # noqa: E402

MODEL = "all-minilm-l6-v2"
SECONDS = 300.0


@dataclass
class Server:
    """A started server and how to ask it."""

    process: subprocess.Popen[str]
    port: int

    def __post_init__(self) -> None:
        self.client = EngineClient("127.0.0.1", self.port)

    async def embed(self, texts: Sequence[str]) -> int:
        """Embed and return how many tokens the texts had."""
        body = {"input": list(texts), "encoding_format": "base64"}
        reply = await self.client.request(json_request("/v1/embeddings", body), deadline_seconds=SECONDS)
        if reply.status != 200:
            raise SystemExit(f"port {self.port} answered {reply.status}: {reply.body[:300]!r}")
        answer = orjson.loads(reply.body)
        if len(answer["data"]) != len(texts):
            raise SystemExit(f"port {self.port} gave {len(answer['data'])} vectors for {len(texts)} texts")
        return int(answer["usage"]["prompt_tokens"])


def environment_of(home: Path) -> dict[str, str]:
    """Return the environment of our programs; no llama-server on PATH takes the wheel's place."""
    ours = {"PYTHONPATH": str(ROOT), "LLAMAFILE_MGR_HOME": str(home)}
    return {**os.environ, **ours, "LLAMAFILE_MGR_ENGINES_SEARCH_PATH": "false"}


@contextlib.contextmanager
def started(command: list[str], home: Path, find_port: Callable[[str], int | None]) -> Iterator[Server]:
    """Run a server and stop it; ``find_port`` reads its lines until one tells the port and readiness."""
    process = subprocess.Popen(
        command, env=environment_of(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            port = find_port(line)
            if port is not None:
                break
        else:
            raise SystemExit(f"{' '.join(command)} ended: {''.join(lines[-20:])}")
        # What it prints from now on is of no interest, but must not fill the pipe.
        drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
        try:
            yield Server(process, port)
        finally:
            drain.kill()
            drain.wait()
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


def direct_port(line: str) -> int | None:
    """Read the embedded engine's line."""
    return int(line.rstrip("/\n").rsplit(":", 1)[1]) if "listening at" in line else None


def stock_port(line: str) -> int | None:
    """Read the lines of a stock llama-server."""
    found = re.search(r"listening (?:on|at) http://[\d.]+:(\d+)", line)
    return int(found[1]) if found else None


def serve_port(line: str) -> int | None:
    """Read an event of ``serve --json``."""
    if not line.startswith("{"):
        return None
    event = json.loads(line)
    return int(event["url"].rsplit(":", 1)[1]) if event["event"] == "ready" else None


def run_ours(home: Path, *arguments: str) -> None:
    """Run one command of ours to its end."""
    command = [sys.executable, "-m", "llamafile_mgr", *arguments]
    subprocess.run(command, env=environment_of(home), check=True, stdout=sys.stderr)


def beside(home: Path, name: str) -> Path:
    """Return another home with the same store."""
    other = home / name
    other.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (other / "store").symlink_to(home / "store")
    return other
