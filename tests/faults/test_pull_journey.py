"""A pull that meets no fault: what is asked, what is written, what is left."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from llamafile_mgr.catalog import ArtifactKind
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader import Event, Target, pull
from llamafile_mgr.downloader.events import Advanced, Present, Published
from llamafile_mgr.store import Store, Trust
from tests.faults.hub import Hub, content, running_hub

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
    target = Target(name="model", source="hf:org/repo/model.gguf", kind=ArtifactKind.WEIGHTS)
    entry = await pull(target, store, settings(hub), events.append, environ={})
    assert entry.path.read_bytes() == data
    assert (entry.digest, entry.size, entry.trust) == (digest, SIZE, Trust.HUB)
    assert stat.S_IMODE(entry.path.stat().st_mode) == 0o400
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert hub.sent <= SIZE * 1.01
    done = [event.done for event in events if isinstance(event, Advanced)]
    assert done == sorted(done)
    assert isinstance(events[-1], Published)
    assert not list((store.root / "parts").iterdir())
    assert store.find("model") == entry

    before = len(hub.requests)
    again = await pull(target, store, settings(hub), events.append, environ={})
    assert (again, len(hub.requests)) == (entry, before)
    assert isinstance(events[-1], Present)


async def test_two_names_of_one_file_cost_it_once(hub: Hub, tmp_path: Path) -> None:
    hub.add("a.gguf", content(SIZE))
    hub.add("b.gguf", content(SIZE))
    store = Store(tmp_path / "store")
    first = Target(name="a", source="hf:org/repo/a.gguf", kind=ArtifactKind.WEIGHTS)
    second = replace(first, name="b", source="hf:org/repo/b.gguf")
    one = await pull(first, store, settings(hub), lambda event: None, environ={})
    two = await pull(second, store, settings(hub), lambda event: None, environ={})
    assert one.path == two.path
    assert hub.sent <= SIZE * 1.01
    store.remove("a")
    assert store.find("b").path.exists()
    assert store.remove("b").freed_bytes == SIZE
    assert not two.path.exists()


@pytest.mark.parametrize("size", [0, 1, 3, 65536, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1])
async def test_sizes_at_the_edges(hub: Hub, tmp_path: Path, size: int) -> None:
    data = content(size)
    hub.add("model.gguf", data)
    target = Target(name="model", source=f"{hub.url}/plain/model.gguf", kind=ArtifactKind.WEIGHTS)
    entry = await pull(target, Store(tmp_path), settings(hub), lambda event: None, environ={})
    assert entry.path.read_bytes() == data
    assert entry.trust is Trust.FIRST_USE
