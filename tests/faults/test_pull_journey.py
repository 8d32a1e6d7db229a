"""A pull that meets no fault: what is asked, what is written, what is left."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from llamafile_mgr.catalog import ArtifactKind
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader import PullTarget, pull
from llamafile_mgr.downloader.pull_events import Advanced, Event, Present, Published
from llamafile_mgr.store import Store, Trust
from tests.faults.hub import Hub, Reply, Request, content, running_hub

SIZE = 12 * 1024 * 1024 + 4321


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[Hub]:
    async with running_hub() as hub:
        yield hub


def settings(hub: Hub) -> DownloadConfig:
    return DownloadConfig(hf_endpoint=hub.url, retry_seconds=0.01, stall_seconds=1.0)


async def test_a_file_of_a_hub_arrives_checked_and_owner_only(hub: Hub, tmp_path: Path) -> None:
    data = content(SIZE)
    digest = hub.add("model.gguf", data)
    store = Store(tmp_path / "store")
    events: list[Event] = []
    target = PullTarget(name="model", source="hf:org/repo/model.gguf", kind=ArtifactKind.WEIGHTS)
    entry = await pull(target, store, settings(hub), events.append, environ={})
    assert entry.path.read_bytes() == data
    assert (entry.digest, entry.size, entry.trust) == (digest, SIZE, Trust.HUB)
    assert stat.S_IMODE(entry.path.stat().st_mode) == 0o400
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert hub.sent <= SIZE * 1.01
    done = [event.done for event in events if isinstance(event, Advanced)]
    assert done == sorted(done)
    assert isinstance(events.pop(), Published)
    assert not list((store.root / "parts").iterdir())
    assert store.find("model") == entry

    before = len(hub.requests)
    again = await pull(target, store, settings(hub), events.append, environ={})
    assert (again, len(hub.requests)) == (entry, before)
    assert isinstance(events.pop(), Present)


async def test_two_names_of_one_file_cost_it_once(hub: Hub, tmp_path: Path) -> None:
    hub.add("a.gguf", content(SIZE))
    hub.add("b.gguf", content(SIZE))
    store = Store(tmp_path / "store")
    first = PullTarget(name="a", source="hf:org/repo/a.gguf", kind=ArtifactKind.WEIGHTS)
    second = replace(first, name="b", source="hf:org/repo/b.gguf")
    one = await pull(first, store, settings(hub), lambda event: None, environ={})
    two = await pull(second, store, settings(hub), lambda event: None, environ={})
    assert one.path == two.path
    assert hub.sent <= SIZE * 1.01
    store.remove("a")
    assert store.find("b").path.exists()
    assert store.remove("b").freed_bytes == SIZE
    assert not two.path.exists()


async def test_a_hub_that_tells_the_digest_to_head_only(hub: Hub, tmp_path: Path) -> None:
    digest = hub.add("model.gguf", content(SIZE))

    def fault(request: Request, reply: Reply) -> Reply:
        if request.role == "hub" and request.method == "GET":
            kept = {key: value for key, value in reply.headers.items() if not key.startswith("X-Linked")}
            return replace(reply, headers=kept)
        return reply

    hub.fault = fault
    target = PullTarget(name="model", source="hf:org/repo/model.gguf", kind=ArtifactKind.WEIGHTS)
    entry = await pull(target, Store(tmp_path), settings(hub), lambda event: None, environ={})
    assert (entry.digest, entry.trust) == (digest, Trust.HUB)


@pytest.mark.parametrize("jobs", [1, 2])
async def test_no_more_connections_than_wanted(hub: Hub, tmp_path: Path, jobs: int) -> None:
    hub.add("model.gguf", content(SIZE))
    target = PullTarget(name="model", source="hf:org/repo/model.gguf", kind=ArtifactKind.WEIGHTS)
    config = replace(settings(hub), jobs=jobs)
    await pull(target, Store(tmp_path), config, lambda event: None, environ={})
    asked = [request for request in hub.requests if request.role == "cdn" and not request.probe]
    assert len(asked) == 4
    # One more carried the first questions to the hub, and one was closed after the first byte.
    assert hub.most_connections <= jobs + 2


async def test_a_limit_on_the_rate_is_kept_over_all_connections(hub: Hub, tmp_path: Path) -> None:
    hub.add("model.gguf", content(SIZE))
    target = PullTarget(name="model", source="hf:org/repo/model.gguf", kind=ArtifactKind.WEIGHTS)
    config = replace(settings(hub), limit_rate=SIZE)
    began = time.monotonic()
    await pull(target, Store(tmp_path), config, lambda event: None, environ={})
    assert time.monotonic() - began >= 0.8


async def test_cancelled_at_any_moment_a_pull_goes_on_and_leaves_nothing_open(
    hub: Hub, tmp_path: Path
) -> None:
    data = content(SIZE)
    hub.add("model.gguf", data)
    target = PullTarget(name="model", source="hf:org/repo/model.gguf", kind=ArtifactKind.WEIGHTS)
    store, chance = Store(tmp_path), random.Random(7)
    before = len(os.listdir("/dev/fd"))
    for _ in range(40):
        task = asyncio.create_task(pull(target, store, settings(hub), lambda event: None, environ={}))
        await asyncio.wait((task,), timeout=chance.uniform(0.0, 0.15))
        task.cancel()
        await asyncio.wait((task,))
    entry = await pull(target, store, settings(hub), lambda event: None, environ={})
    assert entry.path.read_bytes() == data
    await asyncio.sleep(0.1)
    assert len(os.listdir("/dev/fd")) <= before + hub.connections + 1


@pytest.mark.parametrize("size", [0, 1, 3, 65536, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1])
async def test_sizes_at_the_edges(hub: Hub, tmp_path: Path, size: int) -> None:
    data = content(size)
    hub.add("model.gguf", data)
    target = PullTarget(name="model", source=f"{hub.url}/plain/model.gguf", kind=ArtifactKind.WEIGHTS)
    entry = await pull(target, Store(tmp_path), settings(hub), lambda event: None, environ={})
    assert entry.path.read_bytes() == data
    assert entry.trust is Trust.FIRST_USE
