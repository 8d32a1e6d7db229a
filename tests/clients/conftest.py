"""Engines for the clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.families import Family
from tests.support.front import FakeModel, running_front
from tests.support.llamafiles import pack_classic, pack_fake
from tests.support.service import Service, running_service


@pytest.fixture(scope="session")
def v1_service(
    minilm: Path, tiny_generator: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run the shapes of llamafile 0.8.4 for embeddings, which its real engine gets wrong for this model, and
    the real engine for generations."""
    home = tmp_path_factory.mktemp("v1")
    embed = pack_fake(minilm, home / "all-minilm-l6-v2.llamafile", version="0.8.4")
    generate = pack_classic(tiny_generator, home / "tiny-generator.llamafile")
    with running_service(home, "--embed", str(embed), "--generate", str(generate)) as running:
        yield running


@pytest.fixture(scope="module")
def v2_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Front]:
    """Run the shapes of llamafiler for both roles.

    ``serve`` takes llamafiler only where nothing else can run a model; so the proxy is put before it here.
    """
    front = _Front(tmp_path_factory.mktemp("v2"))
    front.start()
    assert front.up.wait(30)
    yield front
    front.loop.call_soon_threadsafe(front.over.set)
    front.join(30)


class _Front(threading.Thread):
    """A proxy before fake v2 engines, in an event loop of its own."""

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self.home = home
        self.url = ""
        self.up = threading.Event()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        models = [
            FakeModel("all-minilm-l6-v2", family=Family.V2),
            FakeModel("tiny-generator", Role.GENERATE, family=Family.V2),
        ]
        async with running_front(self.home, models) as running:
            self.url = running.url
            self.up.set()
            await self.over.wait()
