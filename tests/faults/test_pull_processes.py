"""Pulls in processes of their own: killed, interrupted, two at once, out of room, read-only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from llamafile_mgr.catalog import ArtifactKind
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader import PullTarget, pull
from llamafile_mgr.downloader.pull_events import Event, Resolved
from llamafile_mgr.errors import IntegrityError
from llamafile_mgr.store import Store
from tests.faults.hub import Hub, Reply, Request, content, running_hub

ROOT = Path(__file__).parent.parent.parent
MIB = 1024 * 1024
BIG = content(10 * MIB + 77)
SMALL = content(2 * MIB + 5)
#: Forks a pull for every line: starting Python fifty times would take longer than all the transfers.
NURSERY = """
import asyncio, os, signal, sys
from pathlib import Path
from llamafile_mgr.catalog import ArtifactKind
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader import PullTarget, pull
from llamafile_mgr.store import Store
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
target = PullTarget("model", "hf:org/repo/model.llamafile", ArtifactKind.LLAMAFILE)
for line in sys.stdin:
    store, url = line.split()
    pid = os.fork()
    if pid == 0:
        config = DownloadConfig(hf_endpoint=url)
        asyncio.run(pull(target, Store(Path(store)), config, lambda event: None, environ={}))
        os._exit(0)
    print(pid, flush=True)
"""
#: Root may write anywhere, by two capabilities that the child gives up: CAP_DAC_OVERRIDE, _READ_SEARCH.
DROP_ROOT = """
import ctypes, os, sys
if sys.platform == "linux" and os.getuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for index in (0, 1):
        sets[index] &= ~0b110
    assert libc.capset(header, sets) == 0
"""
TARGET = PullTarget("model", "hf:org/repo/model.llamafile", ArtifactKind.LLAMAFILE)


def throttle(hub: Hub, rate: int) -> None:
    """Let every connection have so many bytes a second."""

    def fault(request: Request, reply: Reply) -> Reply:
        return reply if request.probe else replace(reply, rate=rate)

    hub.fault = fault


def settings(hub: Hub) -> DownloadConfig:
    return DownloadConfig(hf_endpoint=hub.url, retry_seconds=0.01, stall_seconds=2.0)


class Nursery:
    """Starts pulls in processes that can be killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    async def start(self, hub: Hub, store: Path) -> int:
        """Start a pull and return its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn:
            self._process.stdin.write(f"{store} {hub.url}\n".encode())
            return int(await self._process.stdout.readline())


@pytest_asyncio.fixture
async def nursery() -> AsyncIterator[Nursery]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NURSERY, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    yield Nursery(process)
    process.kill()
    await process.wait()


async def kill(pid: int) -> bool:
    """Kill a process, wait until it is gone, and tell whether it was still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    for _ in range(500):
        await asyncio.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            continue
        return True
    raise AssertionError("the process outlives its kill")


async def start_command(
    hub: Hub, home: Path, *arguments: str, prelude: str = ""
) -> asyncio.subprocess.Process:
    """Run the real command line in a process."""
    code = f"{prelude}\nimport sys; from llamafile_mgr.cli import run; sys.exit(run(sys.argv[1:]))"
    environment = {**os.environ, "LLAMAFILE_MGR_HOME": str(home), "HF_ENDPOINT": hub.url}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        *arguments,
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def wait_for_bytes(hub: Hub, count: int) -> None:
    """Wait until the hub has sent so many bytes."""
    deadline = time.monotonic() + 30
    while hub.sent < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def executables(root: Path) -> list[Path]:
    return [p for p in root.rglob("*") if p.is_file() and stat.S_IMODE(p.stat().st_mode) & 0o111]


async def killed_and_resumed(
    nursery: Nursery, data: bytes, rate: int, moment: float, directory: Path
) -> float:
    """Kill a pull ``moment`` seconds after its first bytes, resume, and return sent bytes per byte."""
    async with running_hub() as hub:
        hub.add("model.llamafile", data)
        throttle(hub, rate)
        pid = await nursery.start(hub, directory)
        await wait_for_bytes(hub, 1)
        await asyncio.sleep(moment)
        if await kill(pid):
            assert all(path.parent.name == "blobs" for path in executables(directory))
        hub.fault = lambda request, reply: reply
        entry = await pull(TARGET, Store(directory), settings(hub), lambda event: None, environ={})
        assert entry.path.read_bytes() == data
        return hub.sent / len(data)


@pytest.mark.parametrize("batch", range(5))
async def test_killed_at_fifty_random_moments(batch: int, nursery: Nursery, tmp_path: Path) -> None:
    chance = random.Random(batch)
    trials = []
    for number in range(10):
        data, rate = (BIG, 1_250_000) if number % 2 else (SMALL, 700_000)
        trials.append((data, rate, chance.uniform(0.0, 3.2), tmp_path / str(number)))
    ratios = await asyncio.gather(*(killed_and_resumed(nursery, *trial) for trial in trials))
    # What a hub has sent may lie unread in the socket of a process that a busy machine did not let run.
    assert sorted(ratios)[-2] <= 1.05, ratios
    assert max(ratios) <= 1.25, ratios


async def test_killed_again_and_again(nursery: Nursery, tmp_path: Path) -> None:
    async with running_hub() as hub:
        hub.add("model.llamafile", BIG)
        throttle(hub, 1_700_000)
        for number in range(4):
            pid = await nursery.start(hub, tmp_path)
            await wait_for_bytes(hub, (number + 1) * 2 * MIB)
            assert await kill(pid)
        throttle(hub, 10**9)
        entry = await pull(TARGET, Store(tmp_path), settings(hub), lambda event: None, environ={})
        assert entry.path.read_bytes() == BIG
        assert hub.sent <= 1.2 * len(BIG)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_leaves_a_resumable_state_and_says_so(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    async with running_hub() as hub:
        hub.add("model.llamafile", BIG)
        throttle(hub, 1_700_000)
        process = await start_command(hub, tmp_path, "pull", TARGET.source, "--name", "model")
        await wait_for_bytes(hub, 3 * MIB)
        process.send_signal(number)
        _, errors = await process.communicate()
        assert process.returncode == code
        assert b"interrupted" in errors
        assert b"goes on from there" in errors
        assert b"Traceback" not in errors
        throttle(hub, 10**9)
        process = await start_command(hub, tmp_path, "pull", TARGET.source, "--name", "model", "--json")
        output, _ = await process.communicate()
        events = [json.loads(line) for line in output.splitlines()]
        resolved = next(event for event in events if event["event"] == "resolved")
        assert resolved["have"] >= 2 * MIB
        assert events[-1]["event"] == "published"
        assert Store(tmp_path / "store").find("model").path.read_bytes() == BIG
        assert hub.sent <= 1.05 * len(BIG)


async def test_two_processes_fetch_one_file_once(tmp_path: Path) -> None:
    async with running_hub() as hub:
        hub.add("model.llamafile", BIG)
        throttle(hub, 1_700_000)
        first = await start_command(hub, tmp_path, "pull", TARGET.source, "--name", "one", "--json")
        await wait_for_bytes(hub, MIB // 2)
        second = await start_command(hub, tmp_path, "pull", TARGET.source, "--name", "two", "--json")
        (_, _), (output, _) = await asyncio.gather(first.communicate(), second.communicate())
        assert (first.returncode, second.returncode) == (0, 0)
        kinds = [json.loads(line)["event"] for line in output.splitlines()]
        assert "following" in kinds
        assert kinds[-1] == "present"
        assert hub.sent <= 1.01 * len(BIG)
        store = Store(tmp_path / "store")
        assert store.find("one").path == store.find("two").path


async def test_a_killed_holder_does_not_block_the_one_that_waits(nursery: Nursery, tmp_path: Path) -> None:
    async with running_hub() as hub:
        hub.add("model.llamafile", BIG)
        throttle(hub, 1_000_000)
        first = await nursery.start(hub, tmp_path / "store")
        await wait_for_bytes(hub, MIB)
        second = await start_command(hub, tmp_path, "pull", TARGET.source, "--name", "model", "--json")
        assert second.stdout is not None
        async for line in second.stdout:
            if json.loads(line)["event"] == "following":
                break
        assert await kill(first)
        throttle(hub, 10**9)
        await second.communicate()
        assert second.returncode == 0
        assert Store(tmp_path / "store").find("model").path.read_bytes() == BIG
        assert hub.sent <= 1.05 * len(BIG)


async def test_a_full_disk_leaves_a_part_and_says_how_much_is_missing(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6 << 20, 6 << 20))"
    async with running_hub() as hub:
        hub.add("model.llamafile", BIG)
        process = await start_command(hub, tmp_path, "pull", TARGET.source, "--name", "model", prelude=limit)
        _, errors = await process.communicate()
        assert process.returncode == 9, errors
        assert b"bytes more are needed" in errors
        assert b"what has arrived is kept" in errors
        assert not executables(tmp_path)
        events: list[Event] = []
        entry = await pull(TARGET, Store(tmp_path / "store"), settings(hub), events.append, environ={})
        assert entry.path.read_bytes() == BIG
        assert any(isinstance(event, Resolved) and event.have >= MIB // 2 for event in events)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """Return a directory that the child may read and not write."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o555)
    yield directory
    shutil.rmtree(directory)


async def test_a_read_only_store_is_an_error_with_a_way_out(read_only: Path) -> None:
    async with running_hub() as hub:
        hub.add("model.llamafile", SMALL)
        process = await start_command(hub, read_only, "pull", TARGET.source, "--name", "m", prelude=DROP_ROOT)
        _, errors = await process.communicate()
        assert process.returncode == 8, errors
        assert b"LLAMAFILE_MGR_HOME" in errors
        assert not os.listdir(read_only)


def spoil_map_end(part: Path) -> None:
    text = (part / "map").read_bytes()
    (part / "map").write_bytes(text[:-3])


def spoil_map(part: Path) -> None:
    (part / "map").write_bytes(os.urandom(300))


def lose_map(part: Path) -> None:
    (part / "map").unlink()


def lose_data(part: Path) -> None:
    (part / "data").unlink()


def shorten_data(part: Path) -> None:
    os.truncate(part / "data", 1000)


def other_boot(part: Path) -> None:
    """Make the map one of an earlier boot that claims nothing as synced."""
    head, *lines = (part / "map").read_text().splitlines()
    document = {**json.loads(head), "boot": "another"}
    kept = [line for line in lines if line.startswith("w")]
    (part / "map").write_text("\n".join([json.dumps(document), *kept, ""]))
    (part / "data").write_bytes(b"\0" * (part / "data").stat().st_size)


@pytest.mark.parametrize("spoil", [spoil_map_end, spoil_map, lose_map, lose_data, shorten_data, other_boot])
async def test_a_spoilt_part_costs_time_and_no_more(spoil: object, tmp_path: Path) -> None:
    async with running_hub() as hub:
        hub.add("model.llamafile", BIG)
        store = Store(tmp_path)
        part = await half_a_part(hub, store)
        assert callable(spoil)
        spoil(part)
        entry = await pull(TARGET, store, settings(hub), lambda event: None, environ={})
        assert entry.path.read_bytes() == BIG


async def test_bytes_that_changed_on_the_disk_are_found(tmp_path: Path) -> None:
    async with running_hub() as hub:
        hub.add("model.llamafile", BIG)
        store = Store(tmp_path)
        part = await half_a_part(hub, store)
        with (part / "data").open("r+b") as stream:
            stream.seek(100)
            stream.write(b"rotten")
        with pytest.raises(IntegrityError, match="wrong digest"):
            await pull(TARGET, store, settings(hub), lambda event: None, environ={})
        assert not executables(tmp_path)


async def half_a_part(hub: Hub, store: Store) -> Path:
    """Cancel a pull in its middle and return its part."""
    throttle(hub, 4_000_000)
    task = asyncio.create_task(pull(TARGET, store, settings(hub), lambda event: None, environ={}))
    await wait_for_bytes(hub, 4 * MIB)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    hub.fault = lambda request, reply: reply
    (part,) = (store.root / "parts").iterdir()
    return part
